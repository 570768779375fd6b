"""Frames through the VAE: whole, or in tiles where a device has no room for whole ones.

Tiles overlap, and where they do, one fades into the next (as with diffusers' `enable_tiling`). One
after another goes through all the latents that there are. What the layers keep of earlier latents
is a large part of what that takes, so only that of one tile is on the device; from one run of
latents to the next, it lies in the memory of the host.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Real

from vjax.config import VAEConfig
from vjax.parallel import mesh as meshes
from vjax.tiles import Tiles

OVERLAP = 16  # latents; with them the default model's tiles are 2 levels of 255 off at most
# Features in float32, of the size of a latent's frames and as wide as the network is there, that it
# takes to decode and to encode them.
DECODING, ENCODING = 22, 15

Part = Real[Array | np.ndarray, "B _T _H _W _C"]


def decoding(vae: VAEConfig) -> float:
    """Bytes that each position of a latent takes on its way to frames, see `vjax.memory`."""
    return DECODING * _feature(vae, vae.decoder_base_dim or vae.base_dim)


def encoding(vae: VAEConfig) -> float:
    """Bytes that frames take on their way to each position of a latent."""
    return ENCODING * _feature(vae, vae.base_dim)


def _feature(vae: VAEConfig, width: int) -> float:
    return 4 * width * vae.temporal_ratio * (vae.spatial_ratio / vae.patch_size) ** 2


def tiles_of(each: float, height: int, width: int, room: float, devices: int = 1) -> Tiles:
    """The fewest tiles of a latent for which there is room, which may be one; else the smallest.

    Args:
        each: bytes of each position, on all devices together.
        height, width: of the latent.
        room: bytes of a device.
        devices: that share each tile.
    """
    every = [
        Tiles(rows[0], columns[0], rows[1], columns[1])
        for rows in _along(height, devices)
        for columns in _along(width, devices)
    ]
    fitting = [tiles for tiles in every if each * tiles.height * tiles.width <= room * devices]
    if not fitting:
        return min(every, key=lambda tiles: tiles.height * tiles.width)
    return min(fitting, key=lambda tiles: (len(tiles), tiles.height * tiles.width))


def _along(side: int, devices: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Ever shorter tiles along a side, and where they begin; devices divide them as they do it."""
    unit = 1 if side % devices else devices
    for count in range(1, side + 1):
        length = math.ceil((side + (count - 1) * OVERLAP) / count / unit) * unit
        if count > 1 and length < 2 * OVERLAP:
            return
        yield length, tuple(i * (side - length) // max(count - 1, 1) for i in range(count))


class Stream:
    """What the VAE makes of a video that comes part by part.

    Args:
        step: a part and what those before it left, None where the video begins, to what becomes of
            it and what it leaves.
        takes, gives: pixels along a side of a latent, in what goes in and in what comes out.
    """

    def __init__(
        self, step: Callable[[Part, Any], tuple[Array, Any]], tiles: Tiles, takes: int, gives: int
    ):
        self.tiles, self._step = tiles, step
        self._from, self._to = tiles.slices(takes), tiles.slices(gives)
        self._shares = tiles.shares(gives) if len(tiles) > 1 else None
        self._left: list[Any] = [None] * len(tiles)

    def run(
        self, part: Callable[[Any], Part], those: Sequence[Any], *, last: bool = True
    ) -> Iterator[Part]:
        """What becomes of the next parts, one after another.

        Args:
            part: is asked for each of `those`, and for each tile again.
            last: whether the video ends with them.
        """
        if len(self.tiles) == 1:
            for each in those:
                made, self._left[0] = self._step(part(each), self._left[0])
                yield made
            return
        of_tiles = []
        for number, (rows, columns) in enumerate(self._from):
            left = jax.tree.map(_on_device, self._left[number])
            of_tile = []
            for each in those:
                made, left = self._step(part(each)[:, :, rows, columns], left)
                of_tile.append(np.asarray(meshes.readable(made)))
            self._left[number] = None if last else jax.tree.map(_on_host, left)
            of_tiles.append(of_tile)
        for parts in zip(*of_tiles, strict=True):
            yield self._faded(parts)

    def _faded(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """One part of the whole size, from those of the tiles."""
        batch, length, _, _, channels = parts[0].shape
        height, width = (ends.stop for ends in self._to[-1])
        total = np.zeros((batch, length, height, width, channels), np.float32)
        for (rows, columns), share, part in zip(self._to, self._shares, parts, strict=True):
            total[:, :, rows, columns] += share[:, :, None] * part
        exact = parts[0].dtype == np.float32
        return total if exact else np.rint(total).astype(parts[0].dtype)


def _on_host(x: jax.Array) -> np.ndarray | jax.Array:
    """What a program gave, out of the device; another takes it as if it had stayed."""
    if not x.committed:
        return np.asarray(x)
    return jax.device_put(x, x.sharding.with_memory_kind("pinned_host"))


def _on_device(x: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    if isinstance(x, np.ndarray):
        return x
    return jax.device_put(x, x.sharding.with_memory_kind("device"))
