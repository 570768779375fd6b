"""Matrices with changes of low rank beside them: W + scale · A B, computed where W is used."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


# Not checked at run time, because trees of their shapes or shardings are the same types.
@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Changed:
    """A kernel and what is added to it, or those of layers that are stacked."""

    kernel: Float[Array, "*layers in out"]
    a: Float[Array, "*layers in rank"]
    b: Float[Array, "*layers rank out"]
    scale: float = dataclasses.field(metadata={"static": True})

    @property
    def merged(self) -> Float[Array, "*layers in out"]:
        """The sum, rounded as it is where a saved file is merged: what trains is what samples."""
        added = self.scale * jnp.matmul(self.a, self.b, precision="highest")
        return (self.kernel.astype(jnp.float32) + added).astype(self.kernel.dtype)


def merged(tree: Any) -> Any:
    """Parameters with the sum in the place of each changed one."""

    def sum_of(x: Any) -> Any:
        return x.merged if isinstance(x, Changed) else x

    return jax.tree.map(sum_of, tree, is_leaf=lambda x: isinstance(x, Changed))
