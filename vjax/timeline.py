"""A request as a timeline: what is known of the video, how strongly, and what the text says.

Every verb only fills in a `Timeline`. It is in the user's terms: the given frames in their own
size and frame rate. `on_canvas` puts it into a model's: the size, the frame rate and the length
that the model will make, with each pixel's strength beside it.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vjax.config import ModelConfig

LONGEST_SECONDS = 600  # that one request may add; its frames are kept in memory


class RequestError(ValueError):
    """A request that cannot be served; the message says what would work."""


def as_frames(array: Any) -> UInt8[np.ndarray, "T H W 3"]:
    """Frames from any array of pictures: [T H W 3] or [H W 3], 0 to 255 or floats from 0 to 1.

    Raises:
        RequestError: it holds something else.
    """
    frames = np.asarray(array)
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise RequestError(
            "Frames are an array [T H W 3] with at least one frame, or one picture [H W 3]; got "
            f"{frames.dtype} {list(np.shape(array))}."
        )
    if np.issubdtype(frames.dtype, np.floating):
        low, high = float(frames.min()), float(frames.max())
        if not 0 <= low <= high <= 1:  # not true of NaN either
            raise RequestError(
                f"Frames of floats go from 0 to 1, but these go from {low:g} to {high:g}: scale "
                "them, or give uint8."
            )
        frames = np.rint(frames.astype(np.float32) * 255)
    elif np.issubdtype(frames.dtype, np.integer):
        low, high = int(frames.min()), int(frames.max())
        if not 0 <= low <= high <= 255:
            raise RequestError(
                f"Frames of whole numbers go from 0 to 255, but these go from {low} to {high}."
            )
    else:
        raise RequestError(f"Frames are whole numbers or floats, not {frames.dtype}.")
    return np.ascontiguousarray(frames, np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """Frames that a request starts from."""

    frames: UInt8[np.ndarray, "T H W 3"]
    fps: float | None = None  # None: the model's
    sound: Any = None  # of the file that they come from
    notes: tuple[str, ...] = ()  # on how it was read

    def kept(self) -> Float[np.ndarray, "T 1 1 1"]:
        """The strength with which all of them are kept."""
        return np.ones((len(self.frames), 1, 1, 1), np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
    """A request for one video.

    Args:
        prompt: what the video should show.
        negative: what it should not show.
        pixels: the given frames, in their own size; None where nothing is given.
        strength: for each of them, or each of their pixels: 1 = keep, 0 = generate, between = a
            starting point to depart from. Shape [T 1 1 1] or [T H W 1].
        pixels_fps: frame rate of `pixels`; None: the model's.
        before: seconds to generate before the given frames.
        after: seconds to generate after them.
        frames: length of the result; None: what is given and asked for, or the model's own length.
        seconds: the same, in seconds.
        at_end: where the length leaves room, the given frames are the end of the result.
        size: width and height of the result; None: the size nearest to the given frames' shape, or
            the model's own.
        fps: frame rate of the result; None: the model's.
        sound: that of the file which `pixels` come from, to stay under the frames that are kept.
        notes: what the user should know of how the given frames were read.
    """

    prompt: str
    negative: str = ""
    pixels: UInt8[np.ndarray, "T H W 3"] | None = None
    strength: Float[np.ndarray, "T #H #W 1"] | None = None
    pixels_fps: float | None = None
    before: float = 0.0
    after: float = 0.0
    frames: int | None = None
    seconds: float | None = None
    at_end: bool = False
    size: tuple[int, int] | None = None
    fps: float | None = None
    sound: Any = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Canvas:
    """A timeline in a model's size, frame rate and length."""

    pixels: UInt8[np.ndarray, "T H W 3"]  # zeros where nothing is known
    strength: Float[np.ndarray, "T #H #W 1"]
    fps: float
    notes: tuple[str, ...] = ()  # what was done to the given frames, for the user

    @property
    def known(self) -> np.ndarray:
        """Which frames are given whole: [T]."""
        return np.asarray((self.strength >= 1).all(axis=(1, 2, 3)))


def size_step(model: ModelConfig) -> int:
    """Width and height are multiples of this."""
    return model.vae.spatial_ratio * max(model.dit.patch[1:])


def check_size(model: ModelConfig, width: int, height: int) -> None:
    """Raises RequestError for a size that the model cannot make, naming the nearest."""
    step = size_step(model)
    low, high = math.ceil(model.min_side / step) * step, model.max_side // step * step

    def nearest(side: int) -> int:
        return min(max(round(side / step) * step, low), high)

    near = (nearest(width), nearest(height))
    if (width, height) != near:
        raise RequestError(
            f"{model.name} cannot make {width}x{height}: sides are multiples of {step} from {low} "
            f"to {high}. The nearest is {near[0]}x{near[1]}."
        )


def check_frames(model: ModelConfig, frames: int) -> None:
    """Raises RequestError for a length that the model cannot make, naming the nearest."""
    ratio = model.vae.temporal_ratio
    longest = _whole_latents(model.max_frames, ratio, math.floor)
    low, high = (
        min(max(_whole_latents(frames, ratio, f), 1), longest) for f in (math.floor, math.ceil)
    )
    if frames not in (low, high):
        near = f"{low} or {high}" if low != high else f"{low}"
        raise RequestError(
            f"{model.name} cannot make {frames} frames: lengths are 1 + {ratio} k, up to "
            f"{longest}. The nearest: {near}."
        )


def _whole_latents(frames: float, ratio: int, to_integer) -> int:
    return 1 + ratio * to_integer((frames - 1) / ratio)


def fitting_size(model: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """The model's size of about its native area whose shape is nearest to width : height."""
    step = size_step(model)
    area = model.width * model.height
    best, smallest = (model.width, model.height), math.inf
    for w in range(math.ceil(model.min_side / step) * step, model.max_side + 1, step):
        for h in range(math.ceil(model.min_side / step) * step, model.max_side + 1, step):
            if 0.75 * area <= w * h <= 1.25 * area:
                shape = abs(math.log(w / h * height / width))
                cost = shape + 0.1 * abs(math.log(w * h / area))
                if cost < smallest:
                    best, smallest = (w, h), cost
    return best


def on_canvas(timeline: Timeline, model: ModelConfig) -> Canvas:
    """Puts a timeline into the terms of a model.

    Raises:
        RequestError: a size, length or frame rate that the model cannot make.
    """
    if not timeline.prompt.strip():
        raise RequestError("The prompt is empty: say what the video should show.")
    fps = model.fps if timeline.fps is None else timeline.fps
    if not 1 <= fps <= 120:
        raise RequestError(f"A frame rate of {fps:g} cannot be made: choose from 1 to 120.")
    if timeline.pixels is None:
        width, height = timeline.size or (model.width, model.height)
        check_size(model, width, height)
        frames = _length(timeline, model, fps)
        return Canvas(
            np.zeros((frames, height, width, 3), np.uint8), np.zeros((frames, 1, 1, 1), "f"), fps
        )
    return _place_given(timeline, model, fps)


def _length(timeline: Timeline, model: ModelConfig, fps: float) -> int:
    if timeline.frames is not None and timeline.seconds is not None:
        raise RequestError("Give either frames or seconds, not both.")
    if timeline.seconds is not None:
        if timeline.seconds <= 0:
            raise RequestError(f"{timeline.seconds:g} seconds is no length: it must be positive.")
        frames = _whole_latents(timeline.seconds * fps + 1, model.vae.temporal_ratio, round)
    else:
        frames = model.frames if timeline.frames is None else timeline.frames
    check_frames(model, frames)
    return frames


def _place_given(timeline: Timeline, model: ModelConfig, fps: float) -> Canvas:
    from vjax import video as media

    given, strength = timeline.pixels, timeline.strength
    notes = [*timeline.notes]
    count, height, width, _ = given.shape
    size = timeline.size or fitting_size(model, width, height)
    check_size(model, *size)
    if (width, height) != size:
        given = media.fit(given, *size)
        notes.append(
            f"The given frames are {width}x{height}; they were scaled and cropped at the centre "
            f"to {size[0]}x{size[1]}."
        )
        if strength.shape[1:3] != (1, 1):
            as_image = (np.repeat(strength, 3, axis=-1) * 255).astype(np.uint8)
            strength = media.fit(as_image, *size)[..., :1].astype(np.float32) / 255
    from_fps = timeline.pixels_fps or fps
    if count > 1 and not math.isclose(from_fps, fps, rel_tol=1e-3):
        index = media.resample(np.arange(count), from_fps, fps)
        given, strength = given[index], strength[index]
        notes.append(
            f"The given video has {from_fps:g} frames a second; it was resampled to {fps:g}."
        )
    if max(timeline.before, timeline.after) > LONGEST_SECONDS:
        raise RequestError(f"At most {LONGEST_SECONDS} seconds can be added in one request.")
    before, after = round(timeline.before * fps), round(timeline.after * fps)
    if timeline.frames is not None or timeline.seconds is not None:
        room = max(_length(timeline, model, fps) - before - len(given), 0)
        before, after = (room, 0) if timeline.at_end else (before, room)
    elif count == 1 and not before and not after:
        after = model.frames - 1
    pixels = np.pad(given, ((before, after), (0, 0), (0, 0), (0, 0)))
    strength = np.pad(strength.astype(np.float32), ((before, after), (0, 0), (0, 0), (0, 0)))
    pixels = np.where(strength > 0, pixels, 0).astype(np.uint8)
    return Canvas(pixels, strength, fps, tuple(notes))


def next_window(canvas: Canvas, model: ModelConfig) -> tuple[int, int] | None:
    """The stretch of frames to make next: one that the model can make in one go, or None if done.

    It touches what is known where it can, and reaches into it on both sides as context. The
    stretch may begin before the canvas or end after it; those frames are made and dropped.
    """
    ratio = model.vae.temporal_ratio
    longest = _whole_latents(model.max_frames, ratio, math.floor)
    total, known = len(canvas.pixels), canvas.known
    if known.all():
        return None
    if total <= longest:
        if canvas.strength[0].min() < 1 <= canvas.strength[-1].min():
            return total - _whole_latents(total, ratio, math.ceil), total
        return 0, _whole_latents(total, ratio, math.ceil)
    context = longest // 4
    first = int(np.argmin(known))
    after = int(np.argmax(known[first:])) + first if known[first:].any() else total
    if first == 0 and after < total:  # work backwards from what is known
        end = min(after + context, total)
        return end - min(longest, _whole_latents(end, ratio, math.ceil)), end
    start = max(first - context, 0)
    end = min(start + longest, after + context if after < total else total)
    return start, start + _whole_latents(end - start, ratio, math.ceil)


def cut(canvas: Canvas, start: int, end: int) -> Canvas:
    """The frames from `start` to `end` - 1; what lies outside of the canvas is unknown."""
    total = len(canvas.pixels)
    pad = ((max(-start, 0), max(end - total, 0)), (0, 0), (0, 0), (0, 0))
    inside = slice(max(start, 0), min(end, total))
    return dataclasses.replace(
        canvas,
        pixels=np.pad(canvas.pixels[inside], pad),
        strength=np.pad(canvas.strength[inside], pad),
    )


def paste(canvas: Canvas, start: int, made: UInt8[np.ndarray, "t H W 3"]) -> Canvas:
    """The canvas with frames made from `start` on, all known now; what was given stays as it is."""
    total = len(canvas.pixels)
    inside = slice(max(start, 0), min(start + len(made), total))
    made = made[inside.start - start : inside.stop - start]
    pixels, strength = canvas.pixels.copy(), canvas.strength.copy()
    pixels[inside] = np.where(strength[inside] >= 1, pixels[inside], made)
    strength[inside] = 1
    return dataclasses.replace(canvas, pixels=pixels, strength=strength)
