"""Where a film is cut."""

import numpy as np
from jaxtyping import Float, UInt8

from vjax.reel import Reel

CHANGE = 20.0  # grey levels that a picture changes by at a cut, in the mean, at least
TIMES = 4.0  # more than at each of the steps beside it
BESIDE = 2  # steps on either side
CELLS = 32  # samples along each side that are looked at


def cuts_of(frames: UInt8[np.ndarray, "T H W 3"] | UInt8[Reel, "T H W 3"]) -> list[int]:
    """The frames that begin another shot: there the picture changes at once, not before or after.

    A flash, which is gone with the next frame, is none.
    """
    change = _changes(Reel.of(frames))
    found = []
    for step, by in enumerate(change):
        around = [*change[max(step - BESIDE, 0) : step], *change[step + 1 : step + 1 + BESIDE]]
        if around and by > CHANGE and by > TIMES * max(around):
            found.append(step + 1)
    return found


def _changes(frames: Reel) -> Float[np.ndarray, " steps"]:
    """How much a picture changes from each frame to the next."""
    height, width = (max(1, side // CELLS) for side in frames.shape[1:3])
    before: list[np.ndarray] = []
    found: list[float] = []
    for block in frames.blocks():
        coarse = block[:, height // 2 :: height, width // 2 :: width].astype(np.float32)
        steps = np.diff(np.concatenate([*before, coarse]), axis=0)
        found += np.abs(steps).mean(axis=(1, 2, 3)).tolist()
        before = [coarse[-1:]]
    return np.array(found, np.float32)
