"""Low-rank changes of a DiT's matrices, W + alpha / rank · A B, which are trained in place of them.

A starts at random and B at zero, so that training starts from the model as it is (Hu et al. 2021,
arXiv:2106.09685). They lie in a tree like that of the DiT: [layers in rank] and [layers rank out].
"""

import pathlib
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from vjax import convert, models
from vjax.config import ConfigError, DiTConfig, LoraConfig
from vjax.convert import Source, lora
from vjax.models.low_rank import Changed


def init(config: DiTConfig, low: LoraConfig, key: jax.Array) -> models.Params:
    """The changes before the first step, in float32.

    Raises:
        ConfigError: a target is none of the DiT's matrices.
    """
    tree: models.Params = {}
    for i, (path, source) in enumerate(_changed(config, low)):
        out, into = source.shape
        layers = (len(source.names),) if source.stacked else ()
        limit = into**-0.5  # as peft draws it
        a = jax.random.uniform(
            jax.random.fold_in(key, i), (*layers, into, low.rank), minval=-limit, maxval=limit
        )
        place = tree
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = {"a": a, "b": jnp.zeros((*layers, low.rank, out))}
    return tree


def check(config: DiTConfig, low: LoraConfig) -> None:
    """Raises ConfigError where a target is none of the DiT's matrices."""
    for _ in _changed(config, low):
        pass


def changed(params: models.Params, changes: models.Params, scale: float) -> models.Params:
    """A DiT's parameters, with what is added to them.

    Of blocks it stays beside, and each adds its own when it runs: there is no second copy of them
    in memory, nor a gradient of their size.
    """
    found = dict(params)
    for name, change in changes.items():
        if "a" in change:
            each = Changed(params[name]["kernel"], change["a"], change["b"], scale)
            stacked = each.kernel.ndim > 2
            found[name] = {**params[name], "kernel": each if stacked else each.merged}
        else:
            found[name] = changed(params[name], change, scale)
    return found


def save(
    directory: pathlib.Path,
    config: DiTConfig,
    low: LoraConfig,
    changes: models.Params,
    expert: Literal["high", "low"] | None = None,
) -> None:
    """Writes the changes as a file that diffusers' `load_lora_weights` and `--lora` read.

    B holds alpha / rank, which not all tools read of a file.

    Args:
        expert: of a model with two, the one that was trained.
    """
    matrices, scale = {}, np.float32(low.alpha / low.rank)
    for path, _ in _changed(config, low):
        leaf = changes
        for name in path:
            leaf = leaf[name]
        matrices[".".join((*path, "kernel"))] = (
            np.asarray(leaf["a"]),
            scale * np.asarray(leaf["b"]),
        )
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / lora.FILES[0]
    work = file.with_name(f".{file.name}")  # a half-written one never replaces a good one
    lora.save(work, config, matrices, expert)
    work.rename(file)


def _changed(config: DiTConfig, low: LoraConfig) -> Iterator[tuple[tuple[str, ...], Source]]:
    """The path of each layer whose matrix is changed, and what this is made of."""
    sources, used = convert.sources(config, own=True), set()
    for name, source in sources.items():
        layer = source.names[0].removesuffix(".weight")
        targets = {each for each in low.targets if layer == each or layer.endswith(f".{each}")}
        if targets and name.endswith(".kernel") and len(source.shape) == 2:
            used |= targets
            yield tuple(name.split(".")[:-1]), source
    if missing := sorted(set(low.targets) - used):
        raise ConfigError(
            f"lora.targets names {', '.join(missing)}, and this model has no such matrix: use ends "
            "of the names that diffusers has for its layers, as to_q or ffn.net.2."
        )
