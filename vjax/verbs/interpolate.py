"""interpolate: more frames a second.

The rule, in exact fractions. Of n frames at rate f, frame k is shown at the time k/f. At rate F the
result has round(n F/f) frames (a half rounds up), so that it lasts as long, and its frame j is
shown at j/F. Where k F/f is a whole number j, frame k is on both grids: it is frame j of the
result, as it is. Every other given frame guides, as an anchor at its own time, and what is left is
made, from a mix of the two given frames beside it, each by how near it is. A mix is right where
little moves in between and shows things twice where much does, so it is departed from the further,
the longer it is from one given frame to the next. Over a cut nothing is mixed or seen: up to the
first frame of a shot it is the one before. At a lower rate nothing is made: frame j is the given
one that is nearest to its time (of two as near, the later), and the others are dropped.
"""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated

import numpy as np
from jaxtyping import UInt8

from vjax.reel import Reel, mixed
from vjax.timeline import Anchor, Piece, RequestError, Span, Timeline, as_reel
from vjax.verbs import media
from vjax.verbs.request import FpsIn, Media, Option, Request, SourcePrompt

# The time from which mixes are made again, for each second between given frames: .2 where these
# have 8 frames a second, and all anew from .6 seconds on.
DEPARTS = 1.6


@dataclasses.dataclass(frozen=True, eq=False)
class Interpolate(Request):
    """More frames a second."""

    example = "interpolate clip.mp4 --fps 24"

    video: Annotated[Media, Option("the video to make smoother", "VIDEO", positional=True)]
    prompt: SourcePrompt = ""
    _: dataclasses.KW_ONLY
    strength: Annotated[
        float | None,
        Option(
            "how far to depart from mixes of the frames beside: 0 (mixes alone) to 1 (all anew); "
            "default: further, the longer it is from frame to frame",
            "S",
        ),
    ] = None
    fps_in: FpsIn = None

    def check(self) -> None:
        if self.strength is not None and not 0 <= self.strength <= 1:
            raise RequestError(
                f"A strength of {self.strength:g} cannot be: choose a number from 0 (frames beside "
                "are mixed) to 1 (all is made anew)."
            )
        if self.fps is None:
            raise RequestError("Say how many frames a second to make, such as 60 or 30000/1001.")

    def timeline(self) -> Timeline:
        given = media.read(self.video, self.fps_in)
        if given.fps is None:
            raise RequestError(
                "A picture or an array has no frame rate of its own: say how many frames a second "
                "are given, with fps_in."
            )
        from vjax.layout import check_length, check_rate
        from vjax.video import cuts_of, exact_rate

        check_rate(self.fps)
        count = len(given.pixels)
        own, wanted = exact_rate(given.fps), exact_rate(self.fps)
        frames, kept, between = grids(count, own, wanted)
        check_length(frames, self.fps)
        depart = min(float(DEPARTS / own), 1.0) if self.strength is None else self.strength
        prompt, spans, note = self.prompt, (), ""
        if len(kept) < frames and depart:  # else nothing has to be said
            lasts = count / given.fps if self.fps_in is None else None
            prompt, spans, note = media.prompt_of(self.video, self.prompt, lasts)
        own_frames = as_reel(given.pixels)
        at = [Fraction(kept[j]) if j in kept else j * own / wanted for j in range(frames)]
        cuts = cuts_of(own_frames) if len(kept) < frames else []
        begins = [bisect.bisect_left(at, cut) for cut in cuts]  # frames of the result
        if begins and begins[-1] == frames:  # its one frame is over before it would be shown
            begins, between = begins[:-1], [k for k in between if k < cuts[-1]]
        spans = tuple(_moved(span, own, at, self.fps) for span in spans)
        strength = np.full((frames, 1, 1, 1), 1 - depart, np.float32)
        strength[list(kept)] = 1
        said = _said(count, frames, len(kept), len(between), given.fps, depart)
        notes = [said, *filter(None, [note])]
        if cuts:
            times = ", ".join(f"{float(cut / own):.4g}" for cut in cuts)
            notes.append(f"There is a cut at {times} seconds, over which nothing is mixed.")
        piece = dataclasses.replace(
            given,
            pixels=_mixed(own_frames, at, cuts),
            strength=strength,
            fps=self.fps,
            sound=None,
            notes=(*given.notes, *notes),
        )
        # What begins a shot is seen from within it.
        first = {cut: begin / self.fps for cut, begin in zip(cuts, begins, strict=False)}
        anchors = tuple(
            Anchor(own_frames.taken([k]), at=first.get(k, float(k / own))) for k in between
        )
        # What is given says more than words do.
        guidance = None if depart == 1 or self.negative else 1.0
        request = dataclasses.replace(self, prompt=prompt)
        return request.with_film(
            _shots(piece, begins),
            anchors=anchors,
            spans=spans,
            sound=given.sound,
            guidance=guidance,
        )


def grids(count: int, own: Fraction, wanted: Fraction) -> tuple[int, dict[int, int], Sequence[int]]:
    """The grid of `count` frames at one rate on that of another, by the rule above.

    Returns:
        How many frames the result has; those that are given, with the number that each has there;
        and the numbers of the given frames that lie between frames of the result.
    """
    faster = wanted / own
    frames = max(1, math.floor(count * faster + Fraction(1, 2)))
    if faster < 1:
        return frames, {j: math.floor(j / faster + Fraction(1, 2)) for j in range(frames)}, ()
    times = [(k, k * faster) for k in range(count)]
    kept = {int(time): k for k, time in times if time.denominator == 1}
    return frames, kept, [k for k, time in times if time.denominator > 1]


def _mixed(
    frames: UInt8[Reel, "T H W 3"], at: Sequence[Fraction], cuts: Sequence[int]
) -> UInt8[Reel, "t H W 3"]:
    """What is shown at times, counted in frames: both frames beside each, as near as it is."""
    before = np.array([math.floor(time) for time in at])
    last = np.isin(before + 1, [*cuts, len(frames)])
    after = np.where(last, before, before + 1)
    return mixed(
        frames.taken(before), frames.taken(after), np.array([time % 1 for time in at], float)
    )


def _moved(span: Span, own: Fraction, at: Sequence[Fraction], fps: float) -> Span:
    """A span of a given video that begins and ends with the frames that it did there."""

    def frame(seconds: float) -> int:
        return bisect.bisect_left(at, round(seconds * float(own)))

    start = min(frame(span.start), len(at) - 1)
    end = None if span.end is None else max(frame(span.end), start + 1) / fps
    return dataclasses.replace(span, start=start / fps, end=end)


def _shots(piece: Piece, cuts: Sequence[int]) -> tuple[Piece, ...]:
    """A piece in parts, of which each but the first begins with a cut, at the frames that are."""
    pixels, strength = as_reel(piece.pixels), Reel.of(piece.strength)
    parts = [slice(*ends) for ends in itertools.pairwise([0, *cuts, len(pixels)])]
    first, *others = [
        dataclasses.replace(piece, pixels=pixels.taken(part), strength=strength.taken(part))
        for part in parts
    ]
    return first, *(dataclasses.replace(each, notes=(), cut=True) for each in others)


def _said(count: int, frames: int, kept: int, between: int, fps: float, depart: float) -> str:
    if kept == frames == count:
        return f"The video has {fps:g} frames a second already: nothing is made."
    if kept == frames:
        return f"The rate is lower: {count - kept} of {count} frames are left out, none is made."
    guides = f"; {between} lie between frames of the result and guide it" if between else ""
    made = "are mixes of those beside them" if not depart else "are made"
    if 0 < depart < 1:
        made += f" from mixes of those beside them, with a strength of {depart:.2g}"
    return f"{kept} of the {count} given frames are kept{guides}. {frames - kept} {made}."


def interpolate(video: Media, prompt: str = "", **options) -> Timeline:
    """A video with more frames a second, or fewer, that lasts as long.

    Given frames whose time is that of a frame of the result are kept, the others guide what is made
    between them.

    Args:
        prompt: what it shows; empty: what the file says it was made from.
        options: `fps`, the rate of the result; `strength`, from 0 (mixes of the frames beside) to 1
            (all between is made anew), by default the more, the longer it is from frame to frame;
            `fps_in`, the rate of an array; `negative` and `size` as in `text`.
    """
    return Interpolate.of(video, prompt, **options).timeline()
