"""How fast weights come from files onto devices, and how much memory of the host that takes."""

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
import time
from typing import Any

import jax
import numpy as np

from vjax import convert, stored, weights
from vjax.benchmarks import rounds
from vjax.config import ConfigError, DiTConfig
from vjax.convert import loading

_BLOCK = 2**24  # bytes
# As wide as Wan 2.2 TI2V-5B; its number of blocks decides how many bytes it has.
_WIDE = DiTConfig(width=3072, heads=24, ffn=14_336, in_channels=48, out_channels=48, depth=1)


def load(model: str | None, gigabytes: float) -> dict[str, float]:
    """The DiT of a model, or one of random weights that is written for it, in bfloat16.

    The system is asked to forget the files first, so that they are read from the disk. On a CPU
    what is loaded is in the host's memory too.
    """
    if model is not None:
        return _measured(weights.open(model, ("dit",)).params["dit"])
    with tempfile.TemporaryDirectory(prefix="vjax-bench-") as place:
        free = shutil.disk_usage(place).free
        if free < 1.1e9 * gigabytes:
            raise ConfigError(f"{place} has {free / 1e9:.3g} GB free: ask for fewer --gigabytes.")
        return _measured(_written(pathlib.Path(place), gigabytes))


def _measured(params: Any) -> dict[str, float]:
    params = jax.tree.map(lambda leaf: leaf.astype(jax.numpy.bfloat16), params)
    leaves = jax.tree.leaves(params)
    files = sorted({tensor.file for leaf in leaves for tensor in leaf.tensors})
    size = sum(file.stat().st_size for file in files)
    _forget(files)
    began = time.perf_counter()
    _read(files)
    raw = size / (time.perf_counter() - began)
    _forget(files)
    took = []

    def load() -> None:
        began = time.perf_counter()
        jax.block_until_ready(stored.put(params, None))
        took.append(time.perf_counter() - began)

    peak = rounds.host_memory("load", load)
    speed = size / took[0]
    found = {
        "load_gigabytes": size / 1e9,
        "disk_gigabytes_per_second": raw / 1e9,
        "load_gigabytes_per_second": speed / 1e9,
        "load_share_of_disk": speed / raw,
    }
    if peak is not None:
        found["load_peak_of_kept"] = peak * 2**30 / sum(leaf.nbytes for leaf in leaves)
    return found


def _read(files: list[pathlib.Path]) -> None:
    block = np.empty(_BLOCK, np.uint8).data
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(block):
                pass


def _forget(files: list[pathlib.Path]) -> None:
    for file in files:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _written(place: pathlib.Path, gigabytes: float) -> Any:
    """A DiT of diffusers' layout, of which one block of random numbers is used again and again."""

    def size(config: DiTConfig) -> int:
        shapes = convert.sources(config).values()
        return sum(2 * len(each.names) * int(np.prod(each.shape)) for each in shapes)

    one, two = (size(dataclasses.replace(_WIDE, depth=depth)) for depth in (1, 2))
    depth = 1 + max(0, round((1e9 * gigabytes - one) / (two - one)))
    config = dataclasses.replace(_WIDE, depth=depth)
    file = place / "transformer" / "diffusion_pytorch_model.safetensors"
    file.parent.mkdir()
    header, offset = {}, 0
    for source in convert.sources(config).values():
        for name in source.names:
            end = offset + 2 * int(np.prod(source.shape))
            spans = {"shape": source.shape, "data_offsets": [offset, end]}
            header[name] = {"dtype": "BF16", **spans}
            offset = end
    described = json.dumps(header).encode()
    described += b" " * (-len(described) % 8)
    numbers = np.random.default_rng(0).normal(size=_BLOCK // 2).astype(jax.numpy.bfloat16)
    block = numbers.view(np.uint8).data
    with file.open("wb") as opened:
        opened.write(len(described).to_bytes(8, "little") + described)
        for start in range(0, offset, _BLOCK):
            opened.write(block[: min(_BLOCK, offset - start)])
    params, problems = loading.network(place, "dit", config)
    if problems:
        raise RuntimeError("; ".join(problems))
    return params
