"""LoRA files added to a model's parameters while those are read: W + scale · alpha / rank · B A.

No second copy of anything is made. What is added is computed in float32 for the rows that are read,
and the sum becomes whatever type the model has then.
"""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from vjax import convert, models
from vjax.config import DiTConfig, ModelConfig
from vjax.convert import Source, lora
from vjax.convert.lora import Change
from vjax.loras import EXPERTS, Lora
from vjax.stored import Stored
from vjax.tensors import BundleError, some


def check(config: ModelConfig, loras: Sequence[Lora]) -> list[str]:
    """What the user should know of these files where a model is used with them.

    Raises:
        BundleError: one cannot be applied.
    """
    return _read(config, loras)[1]


def merged(
    params: models.Params, config: ModelConfig, loras: Sequence[Lora]
) -> tuple[models.Params, list[str]]:
    """Stored parameters of a model's networks with what LoRA files add, and the notes of `check`.

    Raises:
        BundleError: one cannot be applied.
    """
    changes, notes = _read(config, loras)
    added = {
        expert: _merged(params[expert], config.dit, found)
        for expert, found in changes.items()
        if expert in params
    }
    return {**params, **added}, notes


def _read(
    config: ModelConfig, loras: Sequence[Lora]
) -> tuple[dict[str, dict[str, list[Change]]], list[str]]:
    """For each expert, what is added to each of its published tensors; and what is to be said."""
    if not loras:
        return {}, []
    if config.dit is None:
        raise BundleError(f"{config.name} has no transformer that a LoRA could change.")
    again = collections.Counter((each.file, each.expert) for each in loras)
    for (file, _), count in again.items():
        if count > 1:
            raise BundleError(f"{file} is given {count} times: give it a larger scale.")
    experts = ["dit"] if config.boundary is None else ["dit", "low"]
    found: dict[str, dict[str, list[Change]]] = {expert: {} for expert in experts}
    notes = []
    for each in loras:
        if each.expert is not None and config.boundary is None:
            raise BundleError(
                f"{config.name} has one expert: name {each.file} without @{each.expert}."
            )
        chosen = EXPERTS[each.expert] if each.expert else None
        file = lora.read(each.file, config.dit, each.scale, chosen)
        if "low" in file.changes and config.boundary is None:
            raise BundleError(f"{each.file} is for a second expert, which {config.name} lacks.")
        for where, changes in file.changes.items():
            to = where or chosen
            for expert in experts if to is None else [to]:
                for name, change in changes.items():
                    found[expert].setdefault(name, []).append(change)
        notes += _notes(each, file, config)
    return found, notes


def _notes(each: Lora, file: lora.Found, config: ModelConfig) -> list[str]:
    said = f"{each} changes {file.applied} of the {file.layers} modules that it names"
    if config.boundary is not None and each.expert is None and None in file.changes:
        said += ", in both experts (@high or @low after the file's name chooses one)"
    if file.left_out:
        said += f"; left out, as this model has none such: {some(file.left_out)}"
    names = {name for changes in file.changes.values() for name in changes}
    if config.dit.image_width and not any("add_k_proj" in name for name in names):
        said += "; how it sees images stays as it was"
    notes = [f"{said}."]
    if file.settings:
        says = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in file.settings.items())
        notes.append(f"{each} says of its use: {says[:300]}.")
    return notes


def _merged(
    params: models.Params, config: DiTConfig, changes: Mapping[str, list[Change]]
) -> models.Params:
    sources = convert.sources(config, own=True)

    def merge(path, leaf: Stored) -> Stored:
        source = sources.get(".".join(str(key.key) for key in path))
        each = [changes.get(name, []) for name in source.names] if source else []
        if not any(each):
            return leaf
        if leaf.source.names == source.names:  # a published file, whose tensors these are
            added = tuple(functools.partial(_sum, found) if found else None for found in each)
        else:
            added = (functools.partial(_ours, source, each),)
        return dataclasses.replace(leaf, added=added)

    return jax.tree.map_with_path(merge, params)


def _sum(changes: Sequence[Change], rows: slice) -> np.ndarray:
    return functools.reduce(np.add, (change.rows(rows) for change in changes))


def _ours(source: Source, each: Sequence[Sequence[Change]], rows: slice) -> np.ndarray:
    """The same for rows of a parameter that is stored as we have it."""

    def whole(changes: Sequence[Change]) -> np.ndarray:
        if not changes:
            return np.zeros(source.shape, np.float32)
        return _sum(changes, slice(None))

    if not source.stacked:
        return source.way.ours(whole(each[0]))[rows]
    return np.stack([source.way.ours(whole(changes)) for changes in each[rows]])
