"""What is heard: samples that can be cut and moved along with the frames."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int16

FADE = 0.005  # seconds: a cut in the middle of a sound is heard as a click


@dataclasses.dataclass(frozen=True, eq=False)
class Sound:
    """Samples at an even rate, in one or two channels."""

    samples: Int16[np.ndarray, "N C"]
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def arrange(self, pieces: Sequence[tuple[float, float, float]], length: float) -> "Sound":
        """Pieces of this sound on a new timeline, with silence between them.

        Where a piece neither begins nor ends with the sound, nor goes on in the next one, it fades
        over 5 ms.

        Args:
            pieces: (start, end, at): what is heard from `start` to `end` seconds goes to `at`
                seconds of the result. What reaches outside of either is cut off.
            length: seconds of the result.
        """
        count = max(0, round(length * self.rate))
        result = np.zeros((count, self.samples.shape[1]), np.float32)
        placed = [[round(t * self.rate) for t in piece] for piece in pieces]
        heads = {(start, at) for start, _, at in placed}
        tails = {(end, at + end - start) for start, end, at in placed}
        for start, end, at in placed:
            skipped = max(0, -start, -at)
            first = start + skipped
            last = min(end, len(self.samples), start + count - at)
            if last <= first:
                continue
            piece = self.samples[first:last].astype(np.float32)
            ramp = np.linspace(0, 1, min(math.ceil(FADE * self.rate), len(piece)), dtype=np.float32)
            if first > 0 and (start, at) not in tails:
                piece[: len(ramp)] *= ramp[:, None]
            if last < len(self.samples) and (end, at + end - start) not in heads:
                piece[len(piece) - len(ramp) :] *= ramp[::-1, None]
            result[at + skipped : at + skipped + len(piece)] += piece
        clipped = np.clip(np.rint(result), -32768, 32767)
        return Sound(clipped.astype(np.int16), self.rate)
