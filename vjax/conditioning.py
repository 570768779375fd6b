"""Known pixels as a `Condition` for the sampler: one function per way that a model takes them.

- `anchors` (ours): a prefix is encoded in place, which a causal VAE does exactly. Whatever is known
  later is encoded as its own short clip and appended as extra tokens with their true positions.
"""

import jax.numpy as jnp
import numpy as np
from einops import reduce

from vjax.config import ModelConfig
from vjax.sampler import Condition
from vjax.timeline import Canvas


def anchors(canvas: Canvas, model: ModelConfig, encode, text, negative) -> Condition:
    """The condition of a model that was trained with anchor tokens.

    Args:
        encode: uint8 frames [T H W 3] to normalised latents [t h w C].
        text: embedding of the prompt, [S D]; `negative`, of what to steer away from.
    """
    ratio, spatial = model.vae.temporal_ratio, model.vae.spatial_ratio
    frames, height, width, _ = canvas.pixels.shape
    grid = (1 + (frames - 1) // ratio, height // spatial, width // spatial)
    channels = model.dit.in_channels
    source = np.zeros((*grid, channels), np.float32)
    strength = np.zeros((grid[0], 1, 1, 1), np.float32)
    known = canvas.known
    prefix = frames if known.all() else int(np.argmin(known))

    if ((canvas.strength > 0) & ~known[:, None, None, None]).any():
        # Something is known in part: encode the whole, and let each token keep its weakest pixel.
        source = np.asarray(encode(canvas.pixels))
        full = np.broadcast_to(canvas.strength, (frames, height, width, 1))
        blocks = reduce(full, "t (h p) (w q) c -> t h w c", "min", p=spatial, q=spatial)
        first, rest = blocks[:1], blocks[1:]
        strength = np.concatenate([first, reduce(rest, "(t r) h w c -> t h w c", "min", r=ratio)])
        source = np.where(strength > 0, source, 0)
        in_place = 1 + (prefix - 1) // ratio if prefix else 0
    elif prefix:
        in_place = 1 + (prefix - 1) // ratio
        source[:in_place] = encode(canvas.pixels[: 1 + ratio * (in_place - 1)])
        strength[:in_place] = 1
    else:
        in_place = 0

    later = known.copy()
    later[: 1 + ratio * (in_place - 1) if in_place else 0] = False
    parts, positions = [], []
    for start, end in _runs(later):
        length = 1 + ratio * ((end - start - 1) // ratio)
        parts.append(encode(canvas.pixels[start : start + length]))
        positions.append(start / ratio + np.arange(1 + (length - 1) // ratio))
        if start + length < end:  # what is left is less than a latent: its last frame speaks for it
            parts.append(encode(canvas.pixels[end - 1 : end]))
            positions.append(np.array([(end - 1) / ratio]))
    none = np.zeros((0, *grid[1:], channels), np.float32)
    # Positions count native latent frames, so another frame rate stretches them.
    stretch = model.fps / canvas.fps
    fields = {
        "source": source,
        "strength": strength,
        "anchors": np.concatenate([none, *parts]),
        "positions": np.arange(grid[0]) * stretch,
        "anchor_positions": np.concatenate([[], *positions]) * stretch,
        "text": text,
        "negative": negative,
    }
    return Condition(**{name: jnp.asarray(x, jnp.float32)[None] for name, x in fields.items()})


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """The stretches [start, end) where a mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
