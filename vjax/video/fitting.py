"""One size to another, without distortion."""

import numpy as np
from jaxtyping import Float, UInt8

from vjax.video.clip import MediaError


def fit(
    frames: UInt8[np.ndarray, "T H W 3"], width: int, height: int
) -> UInt8[np.ndarray, "T h w 3"]:
    """Scales frames (Lanczos, antialiased) to fill a size; what stands over is cut on both sides.

    Raises:
        MediaError: a size below 1x1.
    """
    from PIL import Image

    if width < 1 or height < 1:
        raise MediaError(f"The size must be at least 1x1, got {width}x{height}.")
    source_height, source_width = frames.shape[1:3]
    if (source_width, source_height) == (width, height):
        return frames
    scale = max(width / source_width, height / source_height)
    seen_width, seen_height = min(source_width, width / scale), min(source_height, height / scale)
    left, top = (source_width - seen_width) / 2, (source_height - seen_height) / 2
    box = (left, top, left + seen_width, top + seen_height)
    fitted = np.empty((len(frames), height, width, 3), np.uint8)
    for frame, result in zip(frames, fitted, strict=True):
        result[:] = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS, box)
    return fitted


def fit_inside(
    frames: UInt8[np.ndarray, "T H W 3"], width: int, height: int
) -> UInt8[np.ndarray, "T h w 3"]:
    """Scales frames (Lanczos, antialiased) to lie in a size as a whole, in the middle of white."""
    source_height, source_width = frames.shape[1:3]
    scale = min(width / source_width, height / source_height)
    inner = max(1, int(source_width * scale)), max(1, int(source_height * scale))
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    placed = np.full((len(frames), height, width, 3), 255, np.uint8)
    placed[:, top : top + inner[1], left : left + inner[0]] = fit(frames, *inner)
    return placed


def squares(frames: UInt8[np.ndarray, "T H W 3"], side: int) -> UInt8[np.ndarray, "T s s 3"]:
    """The square in the middle of each, as CLIP's processor has it: bicubic, then cropped."""
    from PIL import Image

    height, width = frames.shape[1:3]
    short = min(height, width)
    size = (int(side * width / short), int(side * height / short))
    left, top = ((length - side) // 2 for length in size)
    box = (left, top, left + side, top + side)
    bicubic = Image.Resampling.BICUBIC
    found = (Image.fromarray(frame).resize(size, bicubic).crop(box) for frame in frames)
    return np.stack([np.asarray(image) for image in found])


def fit_levels(
    levels: Float[np.ndarray, "T H W 1"], width: int, height: int
) -> Float[np.ndarray, "T h w 1"]:
    """Levels from 0 to 1 scaled as `fit` does; where a frame has but two, there stay two."""
    return np.stack([_fit_levels(frame, width, height) for frame in levels])


def _fit_levels(levels: np.ndarray, width: int, height: int) -> np.ndarray:
    low, high = float(levels.min()), float(levels.max())
    if low == high:
        return np.full((height, width, 1), low, np.float32)
    mask = bool(((levels == low) | (levels == high)).all())
    scaled = (levels - low) / (high - low) if mask else levels
    as_image = np.rint(np.repeat(scaled, 3, axis=-1) * 255).astype(np.uint8)
    scaled = fit(as_image[None], width, height)[0, ..., :1].astype(np.float32) / 255
    return np.where(np.rint(scaled) > 0, np.float32(high), np.float32(low)) if mask else scaled


def coarse(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """A size on the way from one that is far larger than the target: quick to reach, exact enough.

    A scaler that works while pixels are decoded reaches it; `fit` does the rest.
    """
    scale = 2 * max(wanted / side for wanted, side in zip(target, size, strict=True))
    if scale > 0.5:
        return size
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height
