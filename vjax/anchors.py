"""Anchors: what a window sees out of order, each piece encoded as a clip of its own.

They are frames that are known later on, and what only guides (`canvas.Guide`). A program is
compiled for each number of anchors. So windows that see fewer than others look further, and most
plans take one program.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vjax.canvas import Canvas


@dataclasses.dataclass(frozen=True)
class Clip:
    """So many frames, 1 + `ratio` k, that are encoded on their own."""

    at: float  # the frame of the canvas that it begins at
    count: int
    apart: float  # frames of the canvas from one of its latents to the next
    guide: int | None = None  # number of the guide that it is of; None: of what is given
    first: int = 0  # its first frame among those of the guide

    def frames(self, canvas: Canvas) -> UInt8[np.ndarray, "T H W 3"]:
        if self.guide is None:
            return canvas.cut(int(self.at), int(self.at) + self.count)[0]
        return canvas.guides[self.guide].frames[self.first : self.first + self.count]


@dataclasses.dataclass(frozen=True)
class Anchor:
    """A latent of a clip."""

    clip: Clip
    latent: int

    @property
    def at(self) -> float:
        """The frame of the canvas that it lies at."""
        return self.clip.at + self.latent * self.clip.apart


def anchors_of(clips: Sequence[Clip], ratio: int) -> tuple[Anchor, ...]:
    """All latents of some clips."""
    return tuple(
        Anchor(clip, latent) for clip in clips for latent in range(1 + (clip.count - 1) // ratio)
    )


def guiding(canvas: Canvas, ratio: int) -> tuple[list[Clip], list[Clip]]:
    """The clips of what guides: those that have a time, and references."""
    timed: list[Clip] = []
    references: list[Clip] = []
    for number, guide in enumerate(canvas.guides):
        at = 0.0 if guide.at is None else guide.at
        count = 1 + ratio * ((len(guide.frames) - 1) // ratio)
        clips = [Clip(at, count, ratio * guide.apart, number)]
        if (last := len(guide.frames) - 1) >= count:  # what is left is less than a latent
            clips.append(Clip(at + last * guide.apart, 1, guide.apart, number, last))
        (references if guide.at is None else timed).extend(clips)
    return timed, references


def seen(
    anchors: Sequence[Anchor],
    spans: Sequence[tuple[float, float]],
    carried: Sequence[int],
    reach: float,
) -> list[tuple[Anchor, ...]]:
    """What each window sees: all within its span, and where others see more, the nearest beyond it.

    Args:
        spans: the first and last frame that concern each window.
        carried: how many anchors it has beside these.
        reach: how many frames beyond its span it may look.
    """

    def distance(anchor: Anchor, span: tuple[float, float]) -> float:
        return max(span[0] - anchor.at, anchor.at - span[1], 0)

    inside = [sum(not distance(anchor, span) for anchor in anchors) for span in spans]
    most = max(map(sum, zip(inside, carried, strict=True)), default=0)
    found = []
    for span, count, beside in zip(spans, inside, carried, strict=True):
        near = sorted(
            (anchor for anchor in anchors if distance(anchor, span) <= reach),
            key=lambda anchor: distance(anchor, span),
        )
        taken = set(near[: most - beside] if count + beside else ())
        found.append(tuple(anchor for anchor in anchors if anchor in taken))
    return found
