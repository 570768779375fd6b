"""In which types a model's networks are kept on devices, parameter by parameter."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vjax import models
from vjax.config import ModelConfig
from vjax.int8 import in_blocks, quantize
from vjax.timeline import RequestError

# The VAE and what looks at images are kept in float32: a frame has more levels than bfloat16 has
# digits.
_TRANSFORMERS = ("dit", "low", "text")
# Small, and used in float32 whatever else is computed in.
_EXACT = r"(^|\.)(\w*norm\w*|\w*modulation|time_embed|rate_embed|relative_bias)(\.|$)"


def kept_as(path: Any, dtype: Any, int8: bool = False) -> np.dtype:
    """The type of a parameter; int8 where it is `vjax.int8.Int8`.

    Args:
        path: the keys on the way to it, of which the first names its network.
        dtype, int8: as in `Stages`.
    """
    if path[0].key not in _TRANSFORMERS:
        return jnp.dtype(jnp.float32)
    if int8 and in_blocks(path):
        return jnp.dtype(jnp.int8)
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return jnp.dtype(jnp.float32) if re.search(_EXACT, name) else jnp.dtype(dtype)


def abstract(model: ModelConfig, dtype: str, int8: bool = False) -> models.Params:
    """Shapes and types of all networks of a model, as `Stages` keeps them.

    Raises:
        RequestError: there is no such dtype.
    """
    if dtype not in ("float32", "bfloat16"):
        raise RequestError(
            f"There is no dtype {dtype!r}: choose float32 or bfloat16. Weights in 8 bits are "
            "int8=True, or --int8."
        )

    def kept(path, x):
        kind = kept_as(path, dtype, int8)
        if kind == jnp.int8:
            return jax.eval_shape(quantize, x)
        return jax.ShapeDtypeStruct(x.shape, kind)

    networks = {name: models.abstract(config) for name, config in model.networks.items()}
    return jax.tree.map_with_path(kept, networks)
