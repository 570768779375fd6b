"""blend: one video becomes another, by a bridge between them or as both are mixed."""

import dataclasses
from collections.abc import Callable
from typing import Annotated

import numpy as np
from jaxtyping import Float

from vjax.reel import mixed
from vjax.timeline import Gap, Piece, RequestError, Timeline, as_reel
from vjax.verbs import media
from vjax.verbs.extend import SECONDS
from vjax.verbs.request import FpsIn, Media, Option, OwnFps, Prompt, Request

# Names of curves: the influence of the second video at a share of the time.
CURVES: dict[str, Callable] = {
    "linear": lambda x: x,
    "ease": lambda x: x * x * (3 - 2 * x),
}
# The time from which an even mixture is made again; less, where one of the two is nearly alone.
DEPTH = 0.8

Points = tuple[tuple[float, float], ...]


def parse_curve(text: str) -> str | Points:
    """ "linear", or "0:0,1:0.5,2:1" as points of time and influence."""
    if ":" not in text:
        return text
    try:
        points = [tuple(float(part) for part in point.split(":")) for point in text.split(",")]
        return tuple((time, influence) for time, influence in points)
    except ValueError:
        raise RequestError(
            f"{text[:40]!r} is no curve: write TIME:INFLUENCE,… such as 0:0,1:0.5,2:1, or one of "
            f"{', '.join(CURVES)}."
        ) from None


@dataclasses.dataclass(frozen=True, eq=False)
class Blend(Request):
    """One video becomes another: by a bridge between them, or mixed under a curve."""

    example = 'blend one.mp4 other.mp4 --curve ease --prompt "a purple star moves right"'

    first: Annotated[Media, Option("the video that it begins as", "A", positional=True)]
    second: Annotated[Media, Option("the video that it becomes", "B", positional=True)]
    prompt: Prompt
    _: dataclasses.KW_ONLY
    seconds: Annotated[
        float | None, Option(f"length of the bridge from A's end to B's start ({SECONDS:g})", "S")
    ] = None
    curve: Annotated[
        str | Points | None,
        Option(
            "mix both instead: linear, ease, or points of seconds and the influence of B from 0 to "
            "1, in between on straight lines",
            "T:I,T:I,…",
            parse_curve,
        ),
    ] = None
    fps: OwnFps = None
    fps_in: FpsIn = None

    def check(self) -> None:
        if self.curve is None:
            return
        if self.seconds is not None:
            raise RequestError(
                "A mix has no bridge: give either seconds, of a bridge, or a curve, of a mix."
            )
        if isinstance(self.curve, str):
            if self.curve not in CURVES:
                raise RequestError(
                    f"There is no curve {self.curve[:40]!r}: choose {', '.join(CURVES)} or points "
                    "such as 0:0,1:0.5,2:1."
                )
            return
        if not self.curve:
            raise RequestError("The curve has no point: give at least one, as TIME:INFLUENCE.")
        for time, influence in self.curve:
            if not 0 <= influence <= 1:
                raise RequestError(
                    f"The curve has an influence of {influence:g} at {time:g} seconds: it goes "
                    "from 0 (A) to 1 (B)."
                )
        times = [time for time, _ in self.curve]
        if any(later <= earlier for earlier, later in zip(times, times[1:], strict=False)):
            raise RequestError("The times of a curve go up from point to point, each once.")

    def timeline(self) -> Timeline:
        first, second = (media.read(video, self.fps_in) for video in (self.first, self.second))
        fps = self.rate_of(first)
        if self.curve is None:
            gap = Gap(SECONDS if self.seconds is None else self.seconds)
            return self.with_film((first, gap, second), fps=fps)
        piece, sound = _mixed(first, second, self.curve)
        return self.with_film((piece,), fps=fps, sound=sound)


def _mixed(first: Piece, second: Piece, curve: str | Points):
    """Both as one piece, and what is heard of them."""
    from vjax import video

    rates = (first.fps, second.fps)
    if None in rates and any(rates) and min(len(first.pixels), len(second.pixels)) > 1:
        known, unknown = ("A", "B") if first.fps else ("B", "A")
        raise RequestError(
            f"{known} has {first.fps or second.fps:g} frames a second and {unknown} has no rate of "
            "its own: say fps_in, the rate of both."
        )
    notes, frames = [*first.notes, *second.notes], as_reel(second.pixels)
    count, height, width, _ = first.pixels.shape
    if frames.shape[1:3] != (height, width):
        notes.append(
            f"B is {frames.shape[2]}x{frames.shape[1]}; it was scaled and cropped at the centre to "
            f"A's {width}x{height}."
        )
        frames = frames.mapped(lambda some: video.fit(some, width, height))
    if first.fps and second.fps and len(frames) > 1 and abs(second.fps / first.fps - 1) > 1e-3:
        notes.append(
            f"B has {second.fps:g} frames a second; it was resampled to A's {first.fps:g}."
        )
        frames = frames.taken(video.resample(np.arange(len(frames)), second.fps, first.fps))
    if len(frames) != count:
        count = min(count, len(frames))
        notes.append(
            f"A has {len(first.pixels)} frames and B {len(frames)}: the mix ends with the shorter."
        )
    influence = _influence(curve, count, first.fps)
    share = influence.astype(np.float32)[:, None, None, None]
    # Where one is alone its frames are kept; an even mixture is furthest from what is real.
    strength = 1 - DEPTH * (1 - np.abs(2 * share - 1))
    sound = None
    if first.fps and (first.sound or second.sound):
        at = np.arange(count) / first.fps
        sound = video.crossfaded(first.sound, second.sound, at, influence, count / first.fps)
        notes.append("The sounds are mixed under the same curve.")
    return dataclasses.replace(
        first,
        pixels=mixed(as_reel(first.pixels), frames, influence),
        strength=strength,
        sound=None,
        notes=tuple(notes),
    ), sound


def _influence(curve: str | Points, count: int, fps: float | None) -> Float[np.ndarray, " T"]:
    """That of the second video on each frame."""
    if isinstance(curve, str):
        return CURVES[curve](np.linspace(0, 1, count) if count > 1 else np.array([0.5]))
    if fps is None:
        raise RequestError(
            "Points of a curve are in seconds, and these frames have no rate: say it with fps_in."
        )
    times, values = zip(*curve, strict=True)
    last = (count - 1) / fps
    for time in times:
        if not 0 <= time <= last + 0.5 / fps:
            raise RequestError(
                f"The curve has a point at {time:g} seconds: the mix goes from 0 to {last:g}, its "
                "last frame."
            )
    return np.interp(np.arange(count) / fps, times, values)


def blend(first: Media, second: Media, prompt: str, **options) -> Timeline:
    """A video that begins as the first and becomes the second.

    Args:
        options: `seconds` (2) that are made from the end of the first to the start of the second,
            both of which are kept; or a `curve` under which they are mixed frame by frame, where
            what is one of them alone is kept: "linear", "ease", or points (seconds, influence of
            the second from 0 to 1); `fps_in`, the frame rate of arrays (the model's); `fps` of the
            result (the first's own); `negative` and `size` as in `text`.
    """
    return Blend.of(first, second, prompt, **options).timeline()
