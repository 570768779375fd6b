"""What a run must have in common with the one that it goes on from, and with its starting point.

All that changes the numbers must be the same: settings, and the content of the files that they
name. What may differ is listed here, so that a new field counts until somebody decides otherwise.
"""

import dataclasses
import fnmatch
import hashlib
import json
import logging
from collections.abc import Iterator

import numpy as np

from vjax import models, validation, weights
from vjax.config import ConfigError, RunConfig
from vjax.tokenizer import Tokenizer

log = logging.getLogger("vjax")

# These decide no weight: where a run lies, how it is fed and what it shows of itself. Files count
# by their content (`inputs`), not by where they are.
_FREE = (
    *("name", "run_dir", "steps", "vae", "init", "tokenizer", "dtype", "ignore_damaged"),
    *("log_every", "checkpoint_every", "keep_checkpoints", "sample_every", "sample_prompts"),
    *("data.directory", "data.threads", "data.prefetch", "mesh.*"),
    *("model.name", "model.frames", "model.height", "model.width", "model.max_frames"),
    *("model.min_side", "model.max_side", "model.sampler", "model.sampler.*"),
    *("model.vocabulary", "model.licence", "model.origin", "model.text.tokenizer"),
    "model.*.remat",
)
# What a run that diverged is told to lower. Whoever gives another value means it.
_STEERING = ("*learning_rate", "*clip_norm")
# What a network may differ in from the one that it starts from.
_FREE_AT_START = ("remat", "tokenizer", "max_length", "latents_mean", "latents_std")

_ABSENT = "not there"


def differences(now, then, path: str = "") -> Iterator[tuple[str, object, object]]:
    """Where two configs differ, one of them perhaps as JSON gave it back: path, then, now.

    A field that `then` lacks has its default value there, and one that is no longer known does not
    count where it was empty or false.
    """
    if dataclasses.is_dataclass(then):
        then = validation.to_dict(then)
    if dataclasses.is_dataclass(now) and isinstance(then, dict):
        fields = {field.name: field for field in dataclasses.fields(now)}
        for name, field in fields.items():
            here = f"{path}.{name}" if path else name
            yield from differences(getattr(now, name), then.get(name, _default(field)), here)
        for name in sorted(set(then) - set(fields)):
            if then[name]:
                yield f"{path}.{name}" if path else name, then[name], _ABSENT
    elif _is_list(now) and _is_list(then) and len(now) == len(then):
        for index, (new, old) in enumerate(zip(now, then, strict=True)):
            yield from differences(new, old, f"{path}[{index}]")
    elif _plain(now) != _plain(then):
        yield path, _plain(then), _plain(now)


def check_resume(config: RunConfig, inputs: dict[str, str], saved: dict, where: str) -> None:
    """Compares a run with what a checkpoint says of itself.

    Args:
        inputs: see `inputs`.
        saved: the config of the checkpoint, with its `inputs`.

    Raises:
        ConfigError: names every field that must be the same and is not, with both values.
    """
    saved = dict(saved)
    content = saved.pop("inputs", {})
    found = [d for d in differences(config, saved) if not _matches(d[0], _FREE)]
    for path, then, now in [d for d in found if _matches(d[0], _STEERING)]:
        log.warning("%s was %s and is %s from here on.", path, _shown(then), _shown(now))
    found = [d for d in found if not _matches(d[0], _STEERING)]
    for name in sorted(set(content) & set(inputs)):
        if content[name] != inputs[name]:
            found.append((f"the content of {name}", content[name], inputs[name]))
    if found:
        raise ConfigError(
            f"The run in {where} cannot go on with other settings: {_sentence(found)}. Take back "
            "the change, or start another run with --name or --run_dir."
        )


def check_start(network: str, found, wanted, where: str) -> None:
    """Compares a network's config in a bundle with the one that is to start from its parameters.

    Raises:
        ConfigError: names every field that differs, with both values: parameters of the same
            shapes can mean something else.
    """
    other = [d for d in differences(wanted, found) if not _matches(d[0], _FREE_AT_START)]
    if other:
        other = [(f"model.{network}.{path}", then, now) for path, then, now in other]
        raise ConfigError(
            f"The {network} of {where} is another than this run's: {_sentence(other)}."
        )


def inputs(
    config: RunConfig,
    dtype: np.dtype,
    frozen: models.Params,
    given: models.Params | None,
    tokenizer: Tokenizer | None,
) -> dict[str, str]:
    """What a run takes from files and from the machine, by content: hashes, and the dtype.

    Args:
        dtype: of the computation.
        frozen: the parameters that are used but not trained.
        given: those that training starts from.
    """
    found = {"dtype": str(dtype), "vae": _hash(frozen), "init": _hash(given or {})}
    if tokenizer is not None:
        found["tokenizer"] = hashlib.sha256(tokenizer.rules.encode()).hexdigest()[:16]
    if config.data.source.startswith("tfds:"):
        from vjax.data.datasets import fingerprint

        found["data"] = fingerprint(config.data)
    return found


def _hash(params: models.Params) -> str:
    if not params:
        return "none"
    digest = hashlib.sha256()
    for name, leaf in sorted(weights.flatten(params).items()):
        digest.update(name.encode() + np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _default(field: dataclasses.Field):
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _ABSENT


def _is_list(value) -> bool:
    return isinstance(value, list | tuple)


def _plain(value):
    """A value as JSON gives it back."""
    return json.loads(
        json.dumps(validation.to_dict(value) if dataclasses.is_dataclass(value) else value)
    )


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _shown(value) -> str:
    text = value if value is _ABSENT else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _sentence(found: list[tuple[str, object, object]]) -> str:
    parts = [f"{path} was {_shown(then)} and is {_shown(now)}" for path, then, now in found[:8]]
    return "; ".join(parts) + ("; …" if len(found) > 8 else "")
