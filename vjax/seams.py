"""Where made frames meet given ones: what the VAE loses of the given ones goes step by step.

Given frames are shown as they are. Those beside them come from the VAE, which loses a little of all
that it decodes, fine texture or a shade of a colour, and where nothing moves this shows as a step.
So what a made frame next to a given one is short of is added to it and, less and less, to those
further on: where the difference is small, for what differs by more has moved, and where nothing has
moved since. Where a part of a frame is given, so are the pixels around it led to it.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from vjax.canvas import Canvas, cuts_around

Frames = UInt8[np.ndarray, "B H W 3"]  # one of each video

REACH = 8  # frames from a given one over which it goes, and pixels
SMALL = 16  # grey levels, in the worst channel, up to which all of a difference is added
UNMOVED = 8  # grey levels up to which a pixel is as it was


def joined(
    chunks: Iterable[UInt8[np.ndarray, "B _ H W 3"]],
    canvases: Sequence[Canvas],
    first: int,
    cuts: Sequence[int],
) -> Iterator[UInt8[np.ndarray, "B _ H W 3"]]:
    """Decoded frames from `first` on, piece by piece, led to what is given on their canvases.

    All canvases know the same frames, and nothing leads over a cut. The last frames before given
    ones wait for each other, `REACH` at most.
    """
    known = canvases[0].known
    near, held = None, []  # the made frame next to what is given; frames that wait
    for chunk in chunks:
        ready: list[Frames] = []
        for at, frame in enumerate(np.moveaxis(chunk, 1, 0), first):
            if known[at]:
                ready.append(frame)
                continue
            start, stop = _gap(known, at, cuts)
            reach = min(REACH, stop - start)
            led = frame
            if start > 0 and start not in cuts and at < start + reach:
                near = frame if at == start else near
                led = _led(led, frame, near, _given(canvases, start - 1), at - start + 1, reach)
            if stop == len(known) or stop in cuts or at < stop - reach:
                ready.append(led)
                continue
            held.append((led, frame))
            if at == stop - 1:
                after = _given(canvases, stop)
                for away, (led, made) in zip(range(len(held), 0, -1), held, strict=True):
                    ready.append(_led(led, made, frame, after, away, reach))
                held = []
        first += chunk.shape[1]
        if ready:
            yield np.stack(ready, axis=1)


def around(
    made: UInt8[np.ndarray, "H W 3"],
    given: UInt8[np.ndarray, "H W 3"],
    known: Bool[np.ndarray, "#H #W 1"],
) -> UInt8[np.ndarray, "H W 3"]:
    """A decoded frame, of which some pixels are given, led to these."""
    if known.all() or not known.any():
        return made
    lost = given.astype(np.float32) - made
    like = known & (np.abs(lost).max(axis=-1, keepdims=True) <= SMALL)
    away = ndimage.distance_transform_edt(~known[..., 0])[..., None]
    share = np.clip(1 - away / (REACH + 1), 0, 1)
    blur = functools.partial(ndimage.gaussian_filter, sigma=(REACH / 4, REACH / 4, 0))
    lost = blur(lost * like) / np.maximum(blur(like.astype(np.float32)), 1e-6)
    return np.clip(np.rint(made + share * lost), 0, 255).astype(np.uint8)


def _gap(known: Bool[np.ndarray, " T"], at: int, cuts: Sequence[int]) -> tuple[int, int]:
    """The frames around one that are made too, without a cut between them."""
    before, after = np.flatnonzero(known[:at]), np.flatnonzero(known[at:])
    low, high = cuts_around(cuts, at, at + 1)
    return int(max(0, *(before[-1:] + 1), low)), int(min(len(known), *(after[:1] + at), high))


def _led(led: Frames, made: Frames, near: Frames, given: Frames, away: int, reach: int) -> Frames:
    """A frame with its share of what the one next to what is given, `near`, is short of.

    Args:
        led: the frame, as it is led from elsewhere; `made`, as it was decoded.
        away: how many frames it is from what is given.
    """
    lost = given.astype(np.float32) - near
    lost *= _up_to(lost, SMALL) * _up_to(made.astype(np.float32) - near, UNMOVED)
    share = 1 - away / (reach + 1)
    return np.clip(np.rint(led + share * lost), 0, 255).astype(np.uint8)


def _up_to(difference: Float[np.ndarray, "B H W 3"], level: int) -> Float[np.ndarray, "B H W 1"]:
    """1 where a pixel differs by no more than a level, 0 from twice that on."""
    return np.clip(2 - np.abs(difference).max(axis=-1, keepdims=True) / level, 0, 1)


def _given(canvases: Sequence[Canvas], at: int) -> Frames:
    return np.stack([canvas.cut(at, at + 1)[0][0] for canvas in canvases])
