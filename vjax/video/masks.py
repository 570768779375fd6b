"""A picture, a video or a folder of pictures as a mask: which pixels are white.

White is what is gray at half or above (128 of 255), by brightness. Transparency is not looked at,
since programs do not agree on what it means, but where it alone says anything: of a picture in one
colour what is opaque is white.
"""

import dataclasses
import math
import os
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, UInt8

from vjax.reel import Reel
from vjax.video import clip as clips
from vjax.video import pictures, reading
from vjax.video.clip import MediaError

SOFT = 0.01  # as large a share between black and white is said
Size = tuple[int, int]  # width, height


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """Which pixels are white; `fps` and `notes` as a `Clip` has them."""

    white: Bool[Reel, "T H W"]
    fps: float | None = None
    notes: tuple[str, ...] = ()


def read_mask(
    path: str | os.PathLike, *, size: Size | Callable[[int, int], Size] | None = None
) -> Mask:
    """Reads what `read` reads as a mask.

    Args:
        size: as in `read`.

    Raises:
        MediaError: nothing can be decoded, or it is a picture with transparent parts instead.
    """
    path = clips.existing(path)
    clip = reading.read(path, size=size, sound=False, layer="colour", aside=True)
    frames, notes = Reel.of(clip.frames), list(clip.notes)
    light = frames.mapped(white)
    first = reading.numbered(path)[0] if path.is_dir() else path
    picture = pictures.open_picture(first)
    if picture is not None:
        picture.image.close()
        layer = reading.read(path, size=size, sound=False, layer="opacity", aside=True).frames
        opaque = Reel.of(layer).mapped(lambda some: some[..., 0] >= 128)
        if share(opaque) < 1:
            if share(light) in (0, 1):
                notes.append(f"{path} is of one colour: where it is opaque, it is taken as white.")
                return Mask(opaque, clip.fps, tuple(notes))
            if _between(frames) > 0.1:
                raise MediaError(
                    f"{path} is a picture with transparent parts and no mask: save the mask as a "
                    "picture in black and white."
                )
            notes.append(f"{path} has transparent parts: its colours alone were read as a mask.")
    if _between(frames) > SOFT:
        notes.append(f"{path} has grays: they are taken as white from half on.")
    return Mask(light, clip.fps, tuple(notes))


def white(frames: UInt8[np.ndarray, "T H W 3"]) -> Bool[np.ndarray, "T H W"]:
    """Where frames are rather white than black."""
    found = np.empty(frames.shape[:3], bool)
    weights = np.array([299, 587, 114], np.float32)  # of whole numbers, all sums are exact
    for frame, result in zip(frames, found, strict=True):
        result[:] = frame.astype(np.float32) @ weights >= 127_500
    return found


def share(white: Bool[Reel, "T H W"]) -> float:
    """How much of a mask is white: 0 where nothing is, 1 where all of it is."""
    return sum(int(block.sum()) for block in white.blocks()) / math.prod(white.shape)


def _between(frames: UInt8[Reel, "T H W 3"]) -> float:
    """The share of what is neither rather black nor rather white."""
    return share(frames.mapped(lambda some: (some[..., 1] > 64) & (some[..., 1] < 191)))
