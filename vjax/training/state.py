"""The training state and the one jitted function that moves it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vjax import models
from vjax.config import Bucket, ConfigError, RunConfig
from vjax.training.loss import dit_loss, vae_loss
from vjax.training.optimizer import make_optimizer

State = dict[str, Any]  # "step", "params", "ema", "optimizer"

TRAINED = {"vae": ("vae",), "dit": ("dit", "text")}


def init_state(config: RunConfig, params: models.Params | None = None) -> State:
    """The state before the first step; networks that `params` lacks start from scratch."""
    if config.trains not in TRAINED:
        known = ", ".join(map(repr, TRAINED))
        raise ConfigError(f"Unknown trains={config.trains!r}: a run trains one of {known}.")
    params, key = dict(params or {}), jax.random.key(config.seed)
    for i, network in enumerate(TRAINED[config.trains]):
        if network not in params:
            params[network] = models.init(
                getattr(config.model, network), jax.random.fold_in(key, i)
            )
    optimizer = make_optimizer(config.optimizer, config.steps)
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": params,
        # A copy: donated buffers must not be shared.
        "ema": jax.tree.map(jnp.array, params),
        "optimizer": optimizer.init(params),
    }


def compute_dtype(config: RunConfig) -> jnp.dtype:
    """bfloat16 on accelerators and float32 on CPU, unless the config says otherwise."""
    default = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(config.dtype or default)


@functools.partial(jax.jit, static_argnames=("config", "bucket"), donate_argnames=("state",))
def train_step(
    config: RunConfig,
    bucket: Bucket,
    state: State,
    frozen: models.Params,
    batch: dict[str, jax.Array],
) -> tuple[State, dict[str, jax.Array]]:
    """One optimizer step. Randomness depends on the seed and the step alone.

    Args:
        frozen: parameters that are used but not trained: the VAE of a "dit" run.
        batch: `video` uint8 [B T H W 3]; of a "dit" run also `ids` [B S] and `mask` [B S].
    """
    key = jax.random.fold_in(jax.random.key(config.seed + 1), state["step"])
    dtype = compute_dtype(config)

    def loss(params):
        params = {**params, **jax.lax.stop_gradient({k: params[k] for k in config.frozen})}
        if config.trains == "vae":
            return vae_loss(config, params, batch, key, dtype)
        return dit_loss(config, bucket, params, frozen, batch, key, dtype)

    (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state["params"])
    optimizer = make_optimizer(config.optimizer, config.steps)
    updates, optimizer_state = optimizer.update(gradients, state["optimizer"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    # Early on the average follows quickly, so that it never remembers the initial values.
    decay = jnp.minimum(config.optimizer.ema, (1 + state["step"]) / (10 + state["step"]))
    ema = jax.tree.map(lambda old, new: old * decay + new * (1 - decay), state["ema"], params)
    metrics = {"loss": value, "gradient_norm": optax.global_norm(gradients), **metrics}
    return {
        "step": state["step"] + 1,
        "params": params,
        "ema": ema,
        "optimizer": optimizer_state,
    }, metrics
