"""A picture, a video or a folder of pictures as a mask: which pixels are white.

White is what is gray at half or above (128 of 255), by brightness. Transparency is not looked at,
since programs do not agree on what it means, but where it alone says anything: of a picture in one
colour what is opaque is white.
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, UInt8

from vjax.video import clip as clips
from vjax.video import pictures, reading
from vjax.video.clip import MediaError

SOFT = 0.01  # as large a share between black and white is said
Size = tuple[int, int]  # width, height


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """Which pixels are white; `fps` and `notes` as a `Clip` has them."""

    white: Bool[np.ndarray, "T H W"]
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
    clip = reading.read(path, size=size, sound=False, layer="colour")
    light, notes = white(clip.frames), list(clip.notes)
    first = reading.numbered(path)[0] if path.is_dir() else path
    picture = pictures.open_picture(first)
    if picture is not None:
        picture.image.close()
        layer = reading.read(path, size=size, sound=False, layer="opacity").frames
        opaque = layer[..., 0] >= 128
        if not opaque.all():
            if light.all() or not light.any():
                notes.append(f"{path} is of one colour: where it is opaque, it is taken as white.")
                return Mask(opaque, clip.fps, tuple(notes))
            if _between(clip.frames) > 0.1:
                raise MediaError(
                    f"{path} is a picture with transparent parts and no mask: save the mask as a "
                    "picture in black and white."
                )
            notes.append(f"{path} has transparent parts: its colours alone were read as a mask.")
    if _between(clip.frames) > SOFT:
        notes.append(f"{path} has grays: they are taken as white from half on.")
    return Mask(light, clip.fps, tuple(notes))


def white(frames: UInt8[np.ndarray, "T H W 3"]) -> Bool[np.ndarray, "T H W"]:
    """Where frames are rather white than black."""
    found = np.empty(frames.shape[:3], bool)
    for frame, result in zip(frames, found, strict=True):
        result[:] = frame @ np.array([299, 587, 114]) >= 127_500
    return found


def _between(frames: UInt8[np.ndarray, "T H W 3"]) -> float:
    """The share of what is neither rather black nor rather white."""
    gray = frames[..., 1]
    return float(((gray > 64) & (gray < 191)).mean())
