"""A request as a timeline: what is known of the video, how strongly, and what the text says.

Every verb only fills in a `Timeline`. It is in the user's terms: the given frames in their own
size and frame rate. `on_canvas` puts it into a model's: the size, the frame rate and the length
of what will be made, with each given pixel's strength beside it.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vjax.config import ModelConfig

LONGEST_SECONDS = 600  # of one result


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
        pixels: the given frames, in their own size, as `as_frames` takes them; None where nothing
            is given.
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

    Raises:
        RequestError: pixels and strength do not fit each other.
    """

    prompt: str
    negative: str = ""
    pixels: np.ndarray | None = None  # uint8 [T H W 3], once it is made
    strength: np.ndarray | None = None  # float32
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

    def __post_init__(self):
        if self.pixels is None and self.strength is None:
            return
        if self.pixels is None or self.strength is None:
            has, lacks = ("strength", "pixels") if self.pixels is None else ("pixels", "strength")
            raise RequestError(
                f"A timeline with {has} needs {lacks} too: the given frames, and for each of them "
                "1 (keep), 0 (generate) or a number between, as [T 1 1 1] or [T H W 1]."
            )
        pixels = as_frames(self.pixels)
        strength = np.asarray(self.strength, np.float32)
        count, height, width, _ = pixels.shape
        if strength.shape not in ((count, 1, 1, 1), (count, height, width, 1)):
            raise RequestError(
                f"The strength of these frames is an array [{count} 1 1 1] or "
                f"[{count} {height} {width} 1], not {list(strength.shape)}."
            )
        if not (strength.min() >= 0 and strength.max() <= 1):
            raise RequestError(
                "Strength goes from 0 (generate) to 1 (keep), but this one goes from "
                f"{strength.min():g} to {strength.max():g}."
            )
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "strength", strength)


@dataclasses.dataclass(frozen=True, eq=False)
class Canvas:
    """A timeline in a model's size and frame rate. It holds no frames but those that are given."""

    frames: int
    width: int
    height: int
    fps: float
    given: UInt8[np.ndarray, "G H W 3"]
    strength: Float[np.ndarray, "G #H #W 1"]
    at: int = 0  # the frame at which the given ones begin
    notes: tuple[str, ...] = ()  # what was done to the given frames, for the user

    @property
    def known(self) -> Bool[np.ndarray, " T"]:
        """Which frames are given whole."""
        known = np.zeros(self.frames, bool)
        known[self.at : self.at + len(self.given)] = (self.strength >= 1).all(axis=(1, 2, 3))
        return known

    def partly_known(self, start: int, stop: int) -> bool:
        """Whether any of the frames from `start` to `stop` - 1 is known in part only."""
        strength = self.strength[max(start - self.at, 0) : max(stop - self.at, 0)]
        whole = (strength >= 1).all(axis=(1, 2, 3), keepdims=True)
        return bool(((strength > 0) & ~whole).any())

    def cut(
        self, start: int, stop: int
    ) -> tuple[UInt8[np.ndarray, "t H W 3"], Float[np.ndarray, "t #H #W 1"]]:
        """The frames from `start` to `stop` - 1 and their strength: zeros where nothing is known.

        They may lie outside of the canvas, where nothing is known either.
        """
        low, high = (min(max(n - self.at, 0), len(self.given)) for n in (start, stop))
        lead = min(max(self.at - start, 0), stop - start)
        pad = ((lead, stop - start - lead - (high - low)), (0, 0), (0, 0), (0, 0))
        given, strength = self.given[low:high], self.strength[low:high]
        given = given if (strength > 0).all() else np.where(strength > 0, given, np.uint8(0))
        return np.pad(given, pad), np.pad(strength, pad)


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
        RequestError: a size, length or frame rate that cannot be made.
    """
    if not timeline.prompt.strip():
        raise RequestError("The prompt is empty: say what the video should show.")
    fps = model.fps if timeline.fps is None else timeline.fps
    if not 1 <= fps <= 120:
        raise RequestError(f"A frame rate of {fps:g} cannot be made: choose from 1 to 120.")
    length = _length(timeline, fps)
    if timeline.pixels is None:
        width, height = timeline.size or (model.width, model.height)
        check_size(model, width, height)
        frames = model.frames if length is None else length
        nothing = np.zeros((0, height, width, 3), np.uint8)
        return Canvas(frames, width, height, fps, nothing, np.zeros((0, 1, 1, 1), np.float32))
    width, height = timeline.size or fitting_size(model, *timeline.pixels.shape[2:0:-1])
    check_size(model, width, height)
    given, strength, notes = _given(timeline, model, width, height, fps)
    before, after = _added(timeline, fps)
    if length is not None:
        if length < before + len(given):
            raise RequestError(
                f"The given frames alone are {before + len(given)} at {fps:g} a second: a result "
                f"of {length} has no room for them."
            )
        room = length - before - len(given)
        before, after = (before + room, 0) if timeline.at_end else (before, room)
    elif len(timeline.pixels) == 1 and not before and not after:
        after = model.frames - 1
    frames = before + len(given) + after
    _check_length(frames, fps)
    return Canvas(frames, width, height, fps, given, strength, before, tuple(notes))


def _length(timeline: Timeline, fps: float) -> int | None:
    """How many frames were asked for; None where the user left it open."""
    if timeline.frames is not None and timeline.seconds is not None:
        raise RequestError("Give either frames or seconds, not both.")
    frames = timeline.frames
    if timeline.seconds is not None:
        if not 0 < timeline.seconds < math.inf:
            raise RequestError(f"{timeline.seconds:g} seconds is no length: it must be positive.")
        _check_length(timeline.seconds * fps, fps)
        frames = max(round(timeline.seconds * fps), 1)
    if frames is not None:
        if frames < 1:
            raise RequestError(f"A video has at least 1 frame, not {frames}.")
        _check_length(frames, fps)
    return frames


def _added(timeline: Timeline, fps: float) -> tuple[int, int]:
    """How many frames come before and after the given ones."""
    for seconds in (timeline.before, timeline.after):
        if not 0 <= seconds < math.inf:
            raise RequestError(f"{seconds:g} seconds cannot be added: it must be positive.")
        if seconds > 0 and round(seconds * fps) < 1:
            raise RequestError(
                f"{seconds:g} seconds are less than one frame at {fps:g} frames a second: add "
                f"{1 / fps:.2g} at least."
            )
        _check_length(seconds * fps, fps)
    return round(timeline.before * fps), round(timeline.after * fps)


def _check_length(frames: float, fps: float) -> None:
    longest = int(LONGEST_SECONDS * fps)
    if frames > longest:
        raise RequestError(
            f"A video is at most {LONGEST_SECONDS} seconds long, {longest} frames at {fps:g} a "
            "second: ask for less."
        )


def _given(timeline: Timeline, model: ModelConfig, width: int, height: int, fps: float):
    """The given frames and their strength in a size and frame rate, and what was done to them."""
    from vjax import video as media

    given, strength, notes = timeline.pixels, timeline.strength, [*timeline.notes]
    count = len(given)
    if given.shape[1:3] != (height, width):
        notes.append(
            f"The given frames are {given.shape[2]}x{given.shape[1]}; they were scaled and cropped "
            f"at the centre to {width}x{height}."
        )
        given = media.fit(given, width, height)
        if strength.shape[1:3] != (1, 1):
            binary = ((strength == 0) | (strength == 1)).all()
            as_image = np.rint(np.repeat(strength, 3, axis=-1) * 255).astype(np.uint8)
            strength = media.fit(as_image, width, height)[..., :1].astype(np.float32) / 255
            strength = np.rint(strength) if binary else strength
    from_fps = model.fps if timeline.pixels_fps is None else timeline.pixels_fps
    if not 0.01 <= from_fps <= 1000:
        raise RequestError(
            f"The given frames cannot have a rate of {from_fps:g}: it is from 0.01 to 1000."
        )
    if count > 1 and not math.isclose(from_fps, fps, rel_tol=1e-3):
        index = media.resample(np.arange(count), from_fps, fps)
        _check_resampled(strength, index, from_fps, fps)
        given, strength = given[index], strength[index]
        notes.append(
            f"The given video has {from_fps:g} frames a second; it was resampled to {fps:g}."
        )
    return given, strength, notes


def _check_resampled(strength, index: np.ndarray, from_fps: float, fps: float) -> None:
    """Raises RequestError where a range that is kept, or one between, has no frame any more."""
    kept = (strength >= 1).all(axis=(1, 2, 3))
    for value in (True, False):
        for start, stop in runs(kept == value):
            if not ((index >= start) & (index < stop)).any():
                what = "could be kept" if value else "would be made"
                raise RequestError(
                    f"At {fps:g} frames a second no frame shows what {start}:{stop} are of the "
                    f"given {from_fps:g}, so nothing of it {what}: choose a longer range, or make "
                    f"the video at {from_fps:g}."
                )


def runs(mask: Bool[np.ndarray, " T"]) -> list[tuple[int, int]]:
    """The stretches [start, stop) where a mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
