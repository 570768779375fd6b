"""The three networks as pure functions of a nested dict of arrays.

`init(config, key)` makes the parameters, `bind(config, params)` gives back a network to call inside
any plain JAX transformation. Layers are declared with `flax.nnx` in this package and nowhere else.
"""

import functools
from typing import Any

import jax
from flax import nnx

from vjax.config import DiTConfig, TextConfig, VAEConfig
from vjax.models.dit import VideoDiT
from vjax.models.text import TextEncoder
from vjax.models.vae import VAE

Params = dict[str, Any]

_NETWORKS = {DiTConfig: VideoDiT, VAEConfig: VAE, TextConfig: TextEncoder}


@functools.lru_cache(maxsize=32)
def _abstract(config) -> tuple[nnx.GraphDef, nnx.State]:
    network = _NETWORKS[type(config)]
    return nnx.split(nnx.eval_shape(lambda: network(config, rngs=nnx.Rngs(0))))


def init(config: DiTConfig | VAEConfig | TextConfig, key: jax.Array) -> Params:
    """Freshly initialised float32 parameters of the network that `config` describes."""
    network = _NETWORKS[type(config)](config, rngs=nnx.Rngs(key))
    return nnx.to_pure_dict(nnx.state(network, nnx.Param))


def abstract(config: DiTConfig | VAEConfig | TextConfig) -> Params:
    """Shapes and dtypes of the parameters, with no memory behind them."""
    return nnx.to_pure_dict(_abstract(config)[1])


def bind(config: DiTConfig | VAEConfig | TextConfig, params: Params) -> Any:
    """The network with these parameters: call it, or its methods, inside `jit`, `grad` or `scan`."""
    graph, state = _abstract(config)
    state = jax.tree.map(lambda x: x, state)  # a copy: the cached one stays abstract
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)
