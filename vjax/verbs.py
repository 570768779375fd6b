"""The verbs: what the user has and wants, as a `Timeline`.

Videos and images may be arrays (uint8 [T H W 3], [H W 3]) or files. An array's frame rate is taken
to be the model's unless `fps_in` says otherwise.
"""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vjax import video as media
from vjax.timeline import RequestError, Timeline

Media = UInt8[np.ndarray, "T H W 3"] | UInt8[np.ndarray, "H W 3"] | str | os.PathLike


def text(prompt: str, **options) -> Timeline:
    """A video from words alone.

    Args:
        options: `negative`, `frames` or `seconds`, `size` = (width, height) and `fps` of the
            result, here and in every other verb; what is left out is the model's own.
    """
    return Timeline(prompt, **options)


def animate(image: Media, prompt: str, **options) -> Timeline:
    """A video whose first frame is the image."""
    pixels, _ = _read(image, None)
    return Timeline(prompt, pixels=pixels[:1], strength=_strength(pixels[:1]), **options)


def extend(
    video: Media,
    prompt: str,
    *,
    seconds: float = 2.0,
    before: bool = False,
    fps_in: float | None = None,
    **options,
) -> Timeline:
    """The given frames and new ones after them, or before them.

    Raises:
        RequestError: the number of seconds is not positive.
    """
    if not seconds > 0:
        raise RequestError(f"Cannot extend by {seconds:g} seconds: it must be a positive number.")
    pixels, fps = _read(video, fps_in)
    return Timeline(
        prompt,
        pixels=pixels,
        strength=_strength(pixels),
        pixels_fps=fps,
        before=seconds if before else 0.0,
        after=0.0 if before else seconds,
        **options,
    )


def infill(
    video: Media,
    prompt: str,
    *,
    keep: Sequence[tuple[int, int]],
    fps_in: float | None = None,
    **options,
) -> Timeline:
    """The given video with only the frames of `keep` as they are; all others are made anew.

    Args:
        keep: ranges [start, end) of the given video's frames. Negative numbers count from its end.

    Raises:
        RequestError: a range that is empty or reaches outside the clip, or nothing to make.
    """
    pixels, fps = _read(video, fps_in)
    count = len(pixels)
    kept = np.zeros(count, bool)
    for start, end in keep:
        first, last = (n + count if n < 0 else n for n in (start, end))
        if not 0 <= first < last <= count:
            raise RequestError(
                f"The range {start}:{end} does not fit the clip, which has frames 0 to {count}."
            )
        kept[first:last] = True
    if kept.all():
        raise RequestError("Every frame is kept, so nothing is left to make: keep fewer frames.")
    if not kept.any():
        raise RequestError("No frame is kept: give at least one range of frames to keep.")
    strength = _strength(pixels) * kept.astype(np.float32)[:, None, None, None]
    return Timeline(prompt, pixels=pixels, strength=strength, pixels_fps=fps, **options)


def _read(source: Media, fps: float | None) -> tuple[np.ndarray, float | None]:
    if isinstance(source, str | os.PathLike):
        clip = media.read(source)
        return clip.frames, fps or clip.fps
    pixels = np.asarray(source)
    if pixels.ndim == 3:
        pixels = pixels[None]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or not pixels.size:
        raise RequestError(
            "Frames must be a uint8 array [T H W 3] with at least one frame, got "
            f"{pixels.dtype} {list(pixels.shape)}."
        )
    return pixels, fps


def _strength(pixels: np.ndarray) -> np.ndarray:
    return np.ones((len(pixels), 1, 1, 1), np.float32)
