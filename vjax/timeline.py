"""A request as a timeline: what is known of the video, how strongly, and what the text says.

Every verb only fills in a `Timeline`. It is in the user's terms: given frames in their own size and
frame rate, times in seconds. `vjax.canvas` puts it into a model's.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vjax.reel import Reel


class RequestError(ValueError):
    """A request that cannot be served; the message says what would work."""


def printable(line: str) -> str:
    """A line that can neither break nor steer a terminal, whatever it was made of."""
    return "".join(c if c.isprintable() else " " for c in line)


def as_frames(array: Any) -> UInt8[np.ndarray, "T H W 3"]:
    """Frames from any array of pictures: [T H W 3] or [H W 3], 0 to 255 or floats from 0 to 1.

    A fourth channel is how opaque they are; as those of a file they are shown over black.

    Raises:
        RequestError: it holds something else.
    """
    frames = np.asarray(array)
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim != 4 or frames.shape[-1] not in (3, 4) or not frames.size:
        raise RequestError(
            "Frames are an array [T H W 3] with at least one frame, or one picture [H W 3], with a "
            f"fourth channel where they are transparent; got {frames.dtype} "
            f"{list(np.shape(array))}."
        )
    if np.issubdtype(frames.dtype, np.floating):
        low, high = float(frames.min()), float(frames.max())
        if not 0 <= low <= high <= 1:  # not true of NaN either
            raise RequestError(
                f"Frames of floats go from 0 to 1, but these go from {low:g} to {high:g}: scale "
                "them, or give uint8."
            )
        frames = np.rint(frames.astype(np.float32) * 255)
    elif frames.dtype != np.uint8 and np.issubdtype(frames.dtype, np.integer):
        low, high = int(frames.min()), int(frames.max())
        if not 0 <= low <= high <= 255:
            raise RequestError(
                f"Frames of whole numbers go from 0 to 255, but these go from {low} to {high}."
            )
    elif frames.dtype != np.uint8:
        raise RequestError(f"Frames are whole numbers or floats, not {frames.dtype}.")
    frames = np.ascontiguousarray(frames, np.uint8)
    if frames.shape[-1] == 4:
        opacity = frames[..., 3:].astype(np.uint16)
        frames = ((frames[..., :3] * opacity + 127) // 255).astype(np.uint8)
    return frames


def as_reel(frames: Any) -> Reel:
    """What `as_frames` takes, as frames that are read when they are asked for."""
    return frames if isinstance(frames, Reel) else Reel.of(as_frames(frames))


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """Frames that are given.

    Args:
        pixels: in their own size, as `as_frames` takes them, or a `Reel`.
        strength: for each frame, or each pixel: 1 = keep, 0 = generate, between = a starting point
            to depart from. Shape [T 1 1 1] or [T H W 1], maybe a `Reel`; None: all are kept.
        at: when they begin in the result, in seconds; None: where what comes before them ends.
        fps: their frame rate; None: the model's.
        sound: that of the file which they come from, to stay under the frames that are kept.
        heard: the time of their first frame in it, in seconds.
        notes: what the user should know of how they were read.
        name: what messages call them.
        cut: whether they begin with a cut; None: as `cut_within` of the timeline says.

    Raises:
        RequestError: pixels or strength are none, or do not fit each other.
    """

    pixels: np.ndarray | Reel  # a Reel of uint8 [T H W 3], once it is made
    strength: np.ndarray | Reel | None = None  # float32, once it is made
    at: float | None = None
    fps: float | None = None
    sound: Any = None
    heard: float = 0.0
    notes: tuple[str, ...] = ()
    name: str = ""
    cut: bool | None = None

    def __post_init__(self):
        pixels = as_reel(self.pixels)
        count, height, width, _ = pixels.shape
        shape = (count, 1, 1, 1)
        strength = np.ones(shape) if self.strength is None else self.strength
        if not isinstance(strength, Reel):
            strength = np.asarray(strength, np.float32)
        if strength.shape not in (shape, (count, height, width, 1)):
            raise RequestError(
                f"The strength of these frames is an array [{count} 1 1 1] or "
                f"[{count} {height} {width} 1], not {list(strength.shape)}."
            )
        ends = [(block.min(), block.max()) for block in Reel.of(strength).blocks()]
        low, high = np.min(ends), np.max(ends)
        if not 0 <= low <= high <= 1:
            raise RequestError(
                "Strength goes from 0 (generate) to 1 (keep), but this one goes from "
                f"{low:g} to {high:g}."
            )
        object.__setattr__(self, "pixels", pixels)
        object.__setattr__(self, "strength", strength)

    def __repr__(self) -> str:
        return f"<Piece {_described(self)}>"


@dataclasses.dataclass(frozen=True, eq=False)
class Anchor:
    """A picture or a short clip that guides what is made and is never a frame of the result.

    Args:
        pixels: in their own size, as `as_frames` takes them, or a `Reel`.
        at: when the first of them would be shown, in seconds of the result, also between two of its
            frames; None: at no time, a reference for what things look like.
        fps: their frame rate; None: the model's.
        notes: what the user should know of how they were read.

    Raises:
        RequestError: pixels are none.
    """

    pixels: np.ndarray | Reel  # a Reel of uint8 [T H W 3], once it is made
    at: float | None = None
    fps: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "pixels", as_reel(self.pixels))

    def __repr__(self) -> str:
        count, height, width, _ = self.pixels.shape
        at = "a reference" if self.at is None else f"at {self.at:g} s"
        return f"<Anchor {count} frame{'s' * (count > 1)} of {width}x{height}: {at}>"


@dataclasses.dataclass(frozen=True)
class Gap:
    """Frames to make: so many seconds; None: as many as the length of the result leaves."""

    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Span:
    """A text that speaks over a part of the result, where the prompt speaks over all of it.

    Args:
        start, end: in seconds; None: the end of the result.
        soften: so many seconds beyond its ends it is heard less and less; 0: not at all.
        cut: it begins with a cut: what comes before does not see it, nor it what comes before.
        name: what messages call it.

    Raises:
        RequestError: it says nothing, or its times are none.
    """

    text: str
    start: float = 0.0
    end: float | None = None
    soften: float = 0.0
    cut: bool = False
    name: str = ""

    def __post_init__(self):
        called = self.name or "A span"
        if not self.text.strip():
            raise RequestError(f"{called} has an empty text: say what it should show.")
        for seconds in (self.start, self.soften, *([] if self.end is None else [self.end])):
            if not 0 <= seconds < math.inf:
                raise RequestError(
                    f"{called} has the time {seconds:g}: give seconds from the start, at least 0."
                )
        if self.end is not None and self.end <= self.start:
            raise RequestError(
                f"{called} ends at {self.end:g} seconds and begins at {self.start:g}: it must end "
                "after its beginning."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
    """A request for one video.

    Args:
        prompt: what the video should show. Without spans, "… Cut to …" are several shots, as they
            are in the text of a span.
        negative: what it should not show.
        film: what is given and what is to be made, in the order in which it is shown. What lies
            before a piece that begins at a time of its own is made too.
        frames: length of the result; None: that of the film, or the model's own where a gap is
            open.
        seconds: the same, in seconds.
        size: width and height of the result; None: the size nearest to the shape of the first
            given frames, or the model's own.
        fps: frame rate of the result; None: the model's.
        loop: what follows the last frame is the first one.
        anchors: what guides it, at times or as references, and is not shown.
        spans: texts that speak over parts of the result. Where they say all of it, the prompt may
            be empty.
        source_prompt: what the given frames show. What is known of them to a degree then moves to
            what the prompt says; empty: it is departed from with noise.
        guidance: how closely to follow the prompt; None: as the model prefers.
        sound: what is heard from its start on; None: the sound of the frames that are kept.
        enlarges: it is what is given, larger: with its tones, and where it is more than the model
            makes at once, in tiles that overlap.
        style: what of the prompt is said around what the user wrote.
        cut_within: where less than so many seconds are to be made between two pieces, there is a
            cut: what comes before the second does not see it, nor it what comes before.

    Raises:
        RequestError: the film is empty, or cannot be a loop.
    """

    prompt: str
    film: tuple[Piece | Gap, ...] = (Gap(),)
    negative: str = ""
    frames: int | None = None
    seconds: float | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None
    loop: bool = False
    anchors: tuple[Anchor, ...] = ()
    spans: tuple[Span, ...] = ()
    source_prompt: str = ""
    guidance: float | None = None
    sound: Any = None
    cut_within: float = 0.0
    enlarges: bool = False
    style: str = ""

    def __post_init__(self):
        if self.loop and len(self.film) > 1 and not isinstance(self.film[0], Piece):
            raise RequestError("A loop begins with what is given, or nothing of it is given.")
        if not self.film:
            raise RequestError("A timeline with an empty film: Gap() is a video of words alone.")
        first = self.film[0]
        if self.loop and isinstance(first, Piece) and first.at:
            raise RequestError(
                f"A loop begins with what is given, not {first.at:g} seconds before it: leave its "
                "time out."
            )

    def __repr__(self) -> str:
        return f"<Timeline\n{self.describe()}>"

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What is given."""
        return tuple(item for item in self.film if isinstance(item, Piece))

    def describe(self, asked: bool = True) -> str:
        """What is given and what will be made, a line each, in the order in which it is shown.

        Args:
            asked: also the length, the size and the rate that were asked for, if any were.
        """
        lines = [f"prompt  {self.prompt}"]
        if self.negative:
            lines.append(f"not     {self.negative}")
        if self.source_prompt:
            lines.append(f"from    {self.source_prompt}")
        for span in self.spans:
            end = "the end" if span.end is None else f"{span.end:g} s"
            soft = f", softened over {span.soften:g} s" if span.soften else ""
            cut = ", with a cut" if span.cut else ""
            lines.append(f"said    {span.start:g} s to {end}{soft}{cut}: {span.text}")
        for number, item in enumerate(self.film):
            if isinstance(item, Piece):
                if item.at and (number == 0 or isinstance(self.film[number - 1], Piece)):
                    lines.append(f"made    until {item.at:g} s")
                lines.append(f"given   {_described(item)}")
            else:
                left = "what is left of the length"
                lines.append(f"made    {left if item.seconds is None else f'{item.seconds:g} s'}")
        lines += _guides(self.anchors)
        lines += [] if self.sound is None else ["heard   the sound of the video, all of it"]
        if self.loop:
            lines.append("loop    the end meets the start")
        length = f"{self.seconds:g} s" if self.seconds is not None else ""
        length = f"{self.frames} frames" if self.frames is not None else length
        size = "{}x{}".format(*self.size) if self.size else ""
        rate = f"{self.fps:g} frames a second" if self.fps is not None else ""
        in_all = ", ".join(filter(None, [length, size, rate]))
        lines += [f"in all  {in_all}"] if asked and in_all else []
        return "\n".join(map(printable, lines))


def _guides(anchors: tuple[Anchor, ...]) -> list[str]:
    """What guides, a line for each reference and one for all that have a time."""
    lines = []
    for anchor in anchors:
        if anchor.at is None:
            count, height, width, _ = anchor.pixels.shape
            what = "a picture" if count == 1 else f"{count} frames"
            lines.append(f"guided  by {what} of {width}x{height}, a reference without a time")
    times = [anchor.at for anchor in anchors if anchor.at is not None]
    if times:
        what = "a picture or clip" if len(times) == 1 else f"{len(times)} pictures or clips"
        span = f"{min(times):g}" if len(times) == 1 else f"{min(times):g} to {max(times):g}"
        lines.append(f"guided  by {what} at {span} s")
    return lines


def _described(piece: Piece) -> str:
    count, height, width, _ = piece.pixels.shape
    at = "" if piece.at is None else f" at {piece.at:g} s"
    rate = "" if piece.fps is None or count == 1 else f", {piece.fps:g} a second"
    sound = "" if piece.sound is None else ", with sound"
    cut = ", with a cut" if piece.cut else ""
    said = _said_of(piece.strength)
    return f"{count} frame{'s' * (count > 1)} of {width}x{height}{rate}{at}{sound}{cut}: {said}"


def _shares(strength: np.ndarray) -> np.ndarray:
    """Of each frame, how much is kept, known to a degree, and free."""
    kept, free = strength >= 1, strength <= 0
    return np.stack([each.mean(axis=(1, 2, 3)) for each in (kept, ~kept & ~free, free)], axis=1)


def _said_of(strength: np.ndarray | Reel) -> str:
    """What happens to given frames: counted in frames, or where a mask parts them in pixels."""
    shares = np.concatenate([_shares(block) for block in Reel.of(strength).blocks()])
    whole = shares >= 1
    if whole[:, 0].all():
        return "kept"
    words = ("kept", "a start to depart from", "made anew")
    if whole.any(axis=1).all():
        return ", ".join(
            f"{n.sum()} {word}" for n, word in zip(whole.T, words, strict=True) if n.any()
        )
    sides = ("black", "white", "white")
    parts = [
        f"{100 * share:.3g}% {word} ({side} in the mask)"
        for share, word, side in zip(shares.mean(axis=0), words, sides, strict=True)
        if share
    ]
    return f"of the pixels {', '.join(parts)}"
