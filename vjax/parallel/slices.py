"""TPU slices that need not be there: their chips in figures, and their devices for the compiler."""

import contextlib
import dataclasses
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from vjax.config import ConfigError
from vjax.models.flops import PEAKS

GIGABYTE = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device of a kind can do, by its maker's figures.

    Args:
        flops: of bfloat16 products, a second.
        memory: bytes of main memory that a program can have.
        bandwidth: bytes a second to and from it.
        ring: bytes a second that it sends on a ring within the slice, both ways together.
        between: bytes a second that it sends to other slices.
        devices: how many there are on a chip.
        sizes: slices that can be had, from the smallest.
    """

    flops: float
    memory: float
    bandwidth: float
    ring: float
    between: float
    devices: int
    sizes: tuple[str, ...]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")

# Memory is what the compiler lets a program have of it.
CHIPS = {
    "v4": Chip(PEAKS["TPU v4"], 30.75 * GIGABYTE, 1.23e12, 90e9, 6e9, 1, _CUBES),
    "v5e": Chip(PEAKS["TPU v5e"], 15.75 * GIGABYTE, 0.82e12, 90e9, 6e9, 1, _FLAT),
    "v5p": Chip(PEAKS["TPU v5p"], 95.74 * GIGABYTE, 2.77e12, 180e9, 6e9, 1, _CUBES),
    "v6e": Chip(PEAKS["TPU v6e"], 31.25 * GIGABYTE, 1.64e12, 180e9, 12e9, 1, _FLAT),
    "tpu7x": Chip(PEAKS["TPU7x"], 94.75 * GIGABYTE, 3.69e12, 100e9, 12e9, 2, _CUBES),
}


def parse(name: str) -> tuple[Chip, str, tuple[int, ...]]:
    """A slice such as "v5p:4x4x4": its chip, the chip's name and the sides.

    Raises:
        ConfigError: there is no such slice; says which there are.
    """
    kind, _, size = name.partition(":")
    if kind not in CHIPS:
        raise ConfigError(
            f"There is no slice {name!r}: choose from {', '.join(CHIPS)}, as in v5e:4x4."
        )
    chip = CHIPS[kind]
    axes = chip.sizes[0].count("x")
    if not re.fullmatch(rf"\d{{1,3}}(x\d{{1,3}}){{{axes}}}", size):
        raise ConfigError(f"A slice of {kind} is one such as {kind}:{chip.sizes[3]}, got {name!r}.")
    return chip, kind, tuple(int(side) for side in size.split("x"))


def kinds(name: str | None) -> tuple[str, ...]:
    """The kinds of chips that a search is for: the one that is named, or all.

    Raises:
        ConfigError: there is no such kind.
    """
    if name is not None and name not in CHIPS:
        raise ConfigError(
            f"--search --slice takes a kind of chip, {', '.join(CHIPS)}: got {name!r}."
        )
    return tuple(CHIPS) if name is None else (name,)


def devices(name: str, slices: int = 1) -> list[jax.Device]:
    """The devices of slices of that name, for the compiler alone.

    Raises:
        ConfigError: there is no such slice, or no compiler for TPUs.
    """
    _, kind, sides = parse(name)
    # libtpu looks for a TPU, and for the one process that may have it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    from jax.experimental import topologies

    options: dict[str, Any] = {} if math.prod(sides) > 1 else {"chips_per_host_bounds": (1, 1, 1)}
    if kind == "v4":
        options["chip_config_name"] = "megacore"  # a chip is one device, as on a TPU VM
    if slices > 1:
        options["num_slices"] = slices
    try:
        with heard([]):  # that there is no TPU
            return list(topologies.get_topology_desc(name, "tpu", **options).devices)
    except Exception as error:
        text = str(error).splitlines()[0][:200]
        if "libtpu" in text or "TPU support" in text:
            raise ConfigError(
                'Planning compiles with libtpu, which is not installed: pip install "vjax[tpu]". '
                "No TPU is needed."
            ) from error
        sizes = ", ".join(f"{kind}:{size}" for size in CHIPS[kind].sizes)
        raise ConfigError(f"{name} is no slice ({text}): choose one such as {sizes}.") from error


@contextlib.contextmanager
def heard(lines: list[str]) -> Iterator[None]:
    """What the compiler writes to the standard error meanwhile, where Python does not see it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
