"""Model bundles: a directory with `model.json` and one safetensors file per network."""

import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vjax import config as configs
from vjax import models
from vjax.config import ModelConfig

NETWORKS = ("dit", "vae", "text")
_SCALE = ".int8_scale"
ASSETS = pathlib.Path(__file__).parent / "assets"


class BundleError(ValueError):
    """A model that cannot be loaded; the message says what is wrong with it."""


def find(name: str) -> pathlib.Path:
    """The directory of a bundle: a path, or the name of one that ships in the package.

    Raises:
        BundleError: there is no such bundle; names those that there are.
    """
    for place in (ASSETS / name, pathlib.Path(name)):
        if (place / "model.json").is_file():
            return place
    shipped = ", ".join(sorted(path.parent.name for path in ASSETS.glob("*/model.json")))
    if pathlib.Path(name).is_dir():
        raise BundleError(f"The directory {name} holds no model: it has no model.json.")
    raise BundleError(
        f"Unknown model {name!r}: give the directory of a bundle or one of: {shipped}."
    )


def flatten(params: models.Params) -> dict[str, Any]:
    """Nested parameters as a flat dict with dotted names."""
    leaves = jax.tree.leaves_with_path(params)
    return {".".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def unflatten(flat: dict[str, Any], like: models.Params) -> models.Params:
    """The inverse of `flatten`, in the structure of `like`."""
    _, tree = jax.tree.flatten(like)
    return jax.tree.unflatten(tree, [flat[name] for name in flatten(like)])


def read_config(name: str) -> ModelConfig:
    """The configuration of a bundle, without its weights."""
    directory = find(name)
    try:
        values = json.loads((directory / "model.json").read_text())
        if not isinstance(values, dict):
            raise configs.ConfigError("it holds no object.")
        return configs.from_dict(ModelConfig, values)
    except (ValueError, OSError) as error:  # among them broken JSON and text that is not UTF-8
        raise BundleError(f"{directory / 'model.json'} cannot be read: {error}") from error


def load(name: str, networks: tuple[str, ...] = NETWORKS) -> tuple[ModelConfig, models.Params]:
    """A bundle's configuration and the parameters of its networks, as host arrays in float32.

    Raises:
        BundleError: names every missing, left-over and misshapen tensor at once.
    """
    directory, config = find(name), read_config(name)
    params, problems = {}, []
    for network in networks:
        network_config = getattr(config, network)
        if network_config is None:
            continue
        expected = models.abstract(network_config)
        file = directory / f"{network}.safetensors"
        if not file.is_file():
            problems.append(f"{file.name} is missing")
            continue
        shapes = {key: leaf.shape for key, leaf in flatten(expected).items()}
        try:
            with safe_open(file, framework="flax") as tensors:
                names = [key for key in tensors.keys() if not key.endswith(_SCALE)]  # noqa: SIM118
                found = {key: tuple(tensors.get_slice(key).get_shape()) for key in names}
                problems += _differences(file.name, shapes, found)
                if not problems:
                    flat = {key: _read_tensor(tensors, key) for key in shapes}
                    params[network] = unflatten(flat, expected)
        except (SafetensorError, OSError) as error:
            problems.append(f"{file.name} cannot be read ({error})")
    if problems:
        shown = "; ".join(problems[:8]) + ("; …" if len(problems) > 8 else "")
        raise BundleError(f"The bundle {directory} does not fit its model.json: {shown}.")
    return config, params


def _read_tensor(tensors, key: str) -> np.ndarray:
    value = np.asarray(tensors.get_tensor(key))
    if value.dtype == np.int8:
        return value * np.asarray(tensors.get_tensor(key + _SCALE), np.float32)
    return value.astype(np.float32)


def _stored(params: models.Params, dtype: str) -> dict[str, np.ndarray]:
    """Tensors as a file holds them; in int8 each column of a matrix has a scale beside it."""
    stored = {}
    for key, leaf in flatten(params).items():
        value = np.asarray(leaf, np.float32)
        if dtype != "int8":
            stored[key] = np.ascontiguousarray(value.astype(jax.numpy.dtype(dtype)))
        elif value.ndim < 2 or value.shape[-2] < 16:  # small ones are not worth the loss
            stored[key] = np.ascontiguousarray(value.astype(jax.numpy.bfloat16))
        else:
            scale = np.maximum(np.abs(value).max(axis=-2, keepdims=True), 1e-8) / 127
            stored[key] = np.ascontiguousarray(np.round(value / scale).astype(np.int8))
            stored[key + _SCALE] = np.ascontiguousarray(scale)
    return stored


def _differences(file: str, expected: dict, found: dict) -> list[str]:
    problems = [f"{file} lacks {key}" for key in sorted(set(expected) - set(found))]
    problems += [f"{file} has an unknown {key}" for key in sorted(set(found) - set(expected))]
    for key in sorted(set(expected) & set(found)):
        if tuple(expected[key]) != found[key]:
            problems.append(f"{file}: {key} is {found[key]}, should be {tuple(expected[key])}")
    return problems


def save(
    directory: str | os.PathLike,
    config: ModelConfig,
    params: models.Params,
    dtype: str = "bfloat16",
) -> None:
    """Writes a bundle whole or not at all: a half-written one never replaces a good one.

    Args:
        dtype: of the stored weights: "float32", "bfloat16" or "int8" (half the size of bfloat16).
    """
    directory = pathlib.Path(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        for network, tree in params.items():
            save_file(_stored(tree, dtype), work / f"{network}.safetensors")
        text = json.dumps(configs.to_dict(config), indent=2, ensure_ascii=False)
        (work / "model.json").write_text(text + "\n")
        work.chmod(0o755)
        _replace(directory, work)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _replace(directory: pathlib.Path, new: pathlib.Path) -> None:
    if not directory.exists():
        new.rename(directory)
        return
    old = new.with_name(f"{new.name}-old")
    directory.rename(old)
    try:
        new.rename(directory)
    except BaseException:
        old.rename(directory)
        raise
    shutil.rmtree(old)
