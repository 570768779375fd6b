"""Matrices of a network's blocks in 8 bits: half the memory of bfloat16.

Weights alone are quantized: symmetric, rounded to the nearest, with a scale for each output, as
qwix's absmax per channel has it. What flows through a network keeps its type.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# The kernels of stacked layers; what lies around them is small, and matters more.
_BLOCKS = r"(^|\.)(blocks|control_blocks|layers)\..*kernel$"


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("values", "scale"), meta_fields=()
)
@dataclasses.dataclass(frozen=True)
class Int8:
    """Kernels `values * scale`. It stands where an array of parameters would.

    Args:
        values: int8 `[… inputs outputs]`.
        scale: float32 `[… 1 outputs]`.
    """

    values: Any
    scale: Any


def quantize(kernel: Float[Array | np.ndarray, "*N inputs outputs"]) -> Int8:
    """Kernels as `Int8`: no number is off by more than half a scale, 1/254 of its column's most."""
    kernel = jnp.asarray(kernel, jnp.float32)
    scale = jnp.max(jnp.abs(kernel), axis=-2, keepdims=True) / 127
    scale = jnp.where(scale > 0, scale, 1)
    return Int8(jnp.round(kernel / scale).astype(jnp.int8), scale)


def in_blocks(path: Any) -> bool:
    """Whether a parameter of a DiT or a text encoder is one of the matrices of its blocks."""
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return re.search(_BLOCKS, name) is not None


def is_int8(x: Any) -> bool:
    """For `jax.tree.map`, where both arrays of a matrix are treated as one."""
    return isinstance(x, Int8)
