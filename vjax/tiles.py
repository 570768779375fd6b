"""Pictures larger than a model makes: its velocity tile by tile, as one velocity of the whole.

Tiles overlap. At every step each is asked for, one after another, and where several lie, the
velocity is their mean, weighted towards the middle of each (MultiDiffusion, arXiv:2302.08113). So
no edge of a tile shows in the picture, and memory does not grow with their number. The sampler is
told nothing of them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from vjax.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Where tiles of one size lie, in latents: one at every pair of a row and a column."""

    height: int
    width: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    references: int = 0  # so many of the last anchors lie in the first tile, for all to see

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def said(self) -> str:
        """Such as " in 2x3 tiles": rows by columns; nothing where there is one."""
        return f" in {len(self.rows)}x{len(self.columns)} tiles" if len(self) > 1 else ""

    def slices(self, scale: int = 1) -> list[tuple[slice, slice]]:
        """The rows and columns of each tile, of which a latent has `scale` along a side."""
        rows = [slice(scale * y, scale * (y + self.height)) for y in self.rows]
        columns = [slice(scale * x, scale * (x + self.width)) for x in self.columns]
        return [(row, column) for row in rows for column in columns]

    def shares(self, scale: int = 1) -> Float[np.ndarray, "n H W"]:
        """How much each tile counts at each of these; together, 1 everywhere."""
        down, across = (
            weights(scale * length, tuple(scale * start for start in starts))
            for length, starts in ((self.height, self.rows), (self.width, self.columns))
        )
        return np.stack([rows[:, None] * columns for rows in down for columns in across])


def tiles_of(model: ModelConfig, width: int, height: int) -> Tiles | None:
    """The tiles of a picture of so many pixels; None where the model makes it at once."""
    if max(width, height) <= model.max_side:
        return None
    ratio, (_, ph, pw) = model.vae.spatial_ratio, model.dit.patch
    native = (model.height, model.width)
    if (height > width) != (model.height > model.width):
        native = native[::-1]
    rows, columns = (
        _along(side // ratio, own // ratio, patch)
        for side, own, patch in zip((height, width), native, (ph, pw), strict=True)
    )
    return Tiles(rows[0], columns[0], rows[1], columns[1])


def _along(side: int, tile: int, patch: int) -> tuple[int, tuple[int, ...]]:
    """The length of tiles along a side, and where they begin: evenly, a third over each other."""
    side, tile = side // patch, min(side, tile) // patch
    count = 1 + math.ceil((side - tile) / (tile - math.ceil(tile / 3))) if side > tile else 1
    starts = [i * (side - tile) // max(count - 1, 1) for i in range(count)]
    return tile * patch, tuple(start * patch for start in starts)


def weights(length: int, starts: tuple[int, ...]) -> Float[np.ndarray, "{len(starts)} {length}"]:
    """How much each tile counts at each of its places along an axis; together, 1 everywhere."""
    ramp = np.minimum(np.arange(length) + 0.5, np.arange(length)[::-1] + 0.5)
    total = np.zeros(starts[-1] + length)
    for start in starts:
        total[start : start + length] += ramp
    return np.stack([ramp / total[start : start + length] for start in starts]).astype(np.float32)


def tiled(velocity: Callable[..., Array], tiles: Tiles) -> Callable[..., Array]:
    """The velocity of whole pictures, asked for in tiles."""
    pairs = np.array([(y, x) for y in tiles.rows for x in tiles.columns], np.int32)
    shares = tiles.shares()

    def whole(latents: Array, t: Array, text: Array, **known: Any) -> Array:
        anchors = known.pop("anchors")
        timed = anchors.shape[1] - tiles.references
        references = anchors[:, timed:, : tiles.height, : tiles.width]

        def add(total: Array, tile: tuple[Array, Array]) -> tuple[Array, None]:
            (y, x), share = tile

            def cut(a: Array) -> Array:
                rows = lax.dynamic_slice_in_dim(a, y, tiles.height, axis=2)
                return lax.dynamic_slice_in_dim(rows, x, tiles.width, axis=3)

            own_t = cut(t) if t.ndim == 4 else t
            seen = jnp.concatenate([cut(anchors[:, :timed]), references], axis=1)
            found = velocity(cut(latents), own_t, text, anchors=seen, **known)
            added = cut(total) + share[None, None, :, :, None] * found.astype(total.dtype)
            return lax.dynamic_update_slice(total, added, (0, 0, y, x, 0)), None

        total = jnp.zeros(latents.shape, latents.dtype)
        return lax.scan(add, total, (jnp.asarray(pairs), jnp.asarray(shares)))[0]

    return whole
