"""The optimizer: AdamW, or Muon for matrices and convolutions, and its schedule."""

import jax
import optax

from vjax.config import ConfigError, OptimizerConfig


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up, a constant stretch, then a linear fall to zero."""
    warmup = min(config.warmup, steps)
    decay_from = max(warmup, int(config.decay_from * steps))
    return optax.join_schedules(
        [
            optax.linear_schedule(config.learning_rate / max(warmup, 1), config.learning_rate, warmup),
            optax.constant_schedule(config.learning_rate),
            optax.linear_schedule(config.learning_rate, 0.0, max(steps - decay_from, 1)),
        ],
        [warmup, decay_from],
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Global-norm clipping and then the chosen update.

    Raises:
        ConfigError: an unknown optimizer.
    """
    rate = learning_rate(config, steps)
    adamw = {"b1": config.b1, "b2": config.b2, "weight_decay": config.weight_decay}
    if config.name == "adamw":
        update = optax.adamw(rate, **adamw)
    elif config.name == "muon":
        update = optax.contrib.muon(
            rate,
            # Updates of AdamW's size, so that both halves share one rate (arXiv:2502.16982).
            consistent_rms=0.2,
            muon_weight_dimension_numbers=_matrices,
            adam_b1=config.b1,
            adam_b2=config.b2,
            adam_weight_decay=config.weight_decay,
            weight_decay=config.weight_decay,
        )
    else:
        raise ConfigError(f'Unknown optimizer {config.name!r}: use "adamw" or "muon".')
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)


def _matrices(params):
    """Muon's view of the parameters: stacked kernels [layer in out] and convolutions [… in out].

    None leaves a leaf to AdamW: embeddings, norms, biases and the layers next to the data.
    """

    def numbers(path, leaf):
        names = [getattr(key, "key", "") for key in path]
        if names[-1] != "kernel":
            return None
        if "blocks" in names or "layers" in names:
            return optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
        if leaf.ndim >= 4:
            return optax.contrib.MuonDimensionNumbers(
                reduction_axis=tuple(range(leaf.ndim - 1)), output_axis=leaf.ndim - 1
            )
        return None

    return jax.tree.map_with_path(numbers, params)
