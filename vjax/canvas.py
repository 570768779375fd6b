"""What will be made and what is given of it: frames, each pixel known to a degree."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from einops import reduce, repeat
from jaxtyping import Bool, Float, UInt8

from vjax.reel import Reel
from vjax.timeline import Piece


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """Frames of a canvas that are given, from one piece of a timeline."""

    piece: Piece
    at: int  # the frame that the first of them is
    frames: UInt8[Reel, "G H W 3"]
    strength: Float[Reel, "G #H #W 1"]

    @property
    def stop(self) -> int:
        return self.at + len(self.frames)

    @property
    def whole(self) -> Bool[np.ndarray, " G"]:
        """Which frames are kept whole."""
        return self.least >= 1

    @property
    def least(self) -> Float[np.ndarray, " G"]:
        """The strength of what is known least of each frame."""
        return self._ends[0]

    @property
    def most(self) -> Float[np.ndarray, " G"]:
        """The strength of what is known best of each frame."""
        return self._ends[1]

    @property
    def departs(self) -> bool:
        """Whether anything is known to a degree, as a point to depart from."""
        return bool(self._ends[2].any())

    @functools.cached_property
    def _ends(self) -> Float[np.ndarray, "3 G"]:
        return ends_of(self.strength)


@dataclasses.dataclass(frozen=True, eq=False)
class Guide:
    """An anchor of a timeline, in the size of a canvas."""

    at: float | None  # the frame, or part of one, that the first of them lies at; None: a reference
    frames: UInt8[Reel, "G H W 3"]
    apart: float  # frames of the canvas from one of them to the next


@dataclasses.dataclass(frozen=True, eq=False)
class Canvas:
    """What will be made and what is given of it. It holds no other frames.

    In a loop what is given of its start is given after its end once more, where it is not shown.
    """

    frames: int
    width: int
    height: int
    fps: float
    given: tuple[Given, ...] = ()  # in their order; none lies over another
    notes: tuple[str, ...] = ()  # what was done to the given frames, for the user
    hidden: int = 0  # so many frames at the end are not shown
    loop: bool = False
    cuts: tuple[int, ...] = ()  # frames that do not see those before them, nor those these
    guides: tuple[Guide, ...] = ()

    @property
    def shown(self) -> int:
        """How many frames the result has."""
        return self.frames - self.hidden

    @property
    def known(self) -> Bool[np.ndarray, " T"]:
        """Which frames are given whole."""
        known = np.zeros(self.frames, bool)
        for each in self.given:
            known[each.at : each.stop] = each.whole
        return known

    @property
    def weakest(self) -> float:
        """The strength of what is known least; 0 where anything is not known at all."""
        if sum(len(each.frames) for each in self.given) < self.frames:
            return 0.0
        return min(float(each.least.min()) for each in self.given)

    @property
    def departs(self) -> bool:
        """Whether anything is known to a degree, as a point to depart from."""
        return any(each.departs for each in self.given)

    def partly_known(self, start: int, stop: int) -> bool:
        """Whether any of the frames from `start` to `stop` - 1 is known in part only."""
        return any(
            ((each.most > 0) & ~each.whole)[inside].any()
            for each, _, inside in self._within(start, stop)
        )

    def unevenly_known(self, start: int, stop: int) -> bool:
        """Whether any of the same frames is known better in one place than in another."""
        return any(
            (each.least != each.most)[inside].any() for each, _, inside in self._within(start, stop)
        )

    def cut(
        self, start: int, stop: int
    ) -> tuple[UInt8[np.ndarray, "t H W 3"], Float[np.ndarray, "t #H #W 1"]]:
        """The frames from `start` to `stop` - 1 and their strength: zeros where nothing is known.

        They may lie outside of the canvas, where nothing is known either.
        """
        frames = np.zeros((stop - start, self.height, self.width, 3), np.uint8)
        kept = self.strength(start, stop)
        for each, place, inside in self._within(start, stop):
            if each.most[inside].any():
                np.copyto(frames[place], each.frames[inside], where=kept[place] > 0)
        return frames, kept

    def strength(self, start: int, stop: int) -> Float[np.ndarray, "t #H #W 1"]:
        """That of the frames from `start` to `stop` - 1; their pixels are not read."""
        found = list(self._within(start, stop))
        sides = max((each.strength.shape[1:3] for each, _, _ in found), default=(1, 1))
        kept = np.zeros((stop - start, *sides, 1), np.float32)
        for each, place, inside in found:
            kept[place] = each.strength[inside]
        return kept

    def between(self, start: int, stop: int, end: int) -> UInt8[Reel, "T H W 3"]:
        """The frames from `start` to `stop` - 1 as an encoder is to see them.

        From `end` on the last one before it stands still. In frames of which some pixels are known
        the others are as those around them.
        """

        def read(numbers: np.ndarray) -> np.ndarray:
            at = np.minimum(start + numbers, end - 1)
            first = int(at.min())
            frames, strength = self.cut(first, int(at.max()) + 1)
            if strength.shape[1:3] != (1, 1) and (strength == 0).any():
                centred = filled(frames.astype(np.float32) - 127.5, np.float32(strength > 0))
                frames = np.rint(centred + 127.5).astype(np.uint8)
            return frames[at - first]

        return Reel((stop - start, self.height, self.width, 3), np.uint8, read)

    def _within(self, start: int, stop: int) -> Iterator[tuple[Given, slice, slice]]:
        """What is given from `start` to `stop` - 1: at which place there, and which part of it."""
        for each in self.given:
            low, high = max(start, each.at), min(stop, each.stop)
            if low < high:
                inside = slice(low - each.at, high - each.at)
                yield each, slice(low - start, high - start), inside


def ends_of(strength: Reel) -> Float[np.ndarray, "3 T"]:
    """Of each frame, the least and the most of its strength, and whether some is in between."""
    found = []
    for block in strength.blocks():
        flat = block.reshape(len(block), -1)
        between = ((flat > 0) & (flat < 1)).any(axis=1)
        found.append(np.stack([flat.min(axis=1), flat.max(axis=1), between.astype(np.float32)]))
    return np.concatenate(found, axis=1)


def filled(frames: Any, known: Any) -> Any:
    """Frames [… H W C] in which what is not known is as what is known around it.

    An encoder looks beyond a pixel: next to a black hole, what is known would be darker to it than
    it is. Each unknown pixel has the mean of the smallest block around it that knows any (the
    pull-push of Gortler et al. 1996); 0 where nothing is known of a frame.

    Args:
        known: 1 or 0 [… H W 1].
    """
    height, width = frames.shape[-3:-1]
    odd = height % 2 or width % 2
    sides = {"p": height, "q": width} if odd else {"p": 2, "q": 2}
    count = reduce(known, "... (h p) (w q) c -> ... h w c", "sum", **sides)
    means = reduce(frames * known, "... (h p) (w q) c -> ... h w c", "sum", **sides)
    means = means / (count + (count == 0))
    if not odd:
        means = filled(means, (count > 0).astype(known.dtype))
    around = repeat(means, "... h w c -> ... (h p) (w q) c", **sides)
    return frames * known + around * (1 - known)


def cuts_around(cuts: Iterable[int], start: int, stop: int) -> tuple[float, float]:
    """The last cut up to `start` and the first from `stop` on; infinite where there is none."""
    found = list(cuts)
    before = max((cut for cut in found if cut <= start), default=-np.inf)
    return before, min((cut for cut in found if cut >= stop), default=np.inf)


def runs(mask: Bool[np.ndarray, " T"]) -> list[tuple[int, int]]:
    """The stretches [start, stop) where a mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
