"""What is heard: samples that can be cut and moved along with the frames."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int16

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

    def resampled(self, rate: int, channels: int) -> "Sound":
        """The same at another rate; one channel is heard on all."""
        samples = self.samples
        if rate != self.rate:
            import av

            layout = "stereo" if samples.shape[1] == 2 else "mono"
            frame = av.AudioFrame.from_ndarray(np.reshape(samples, (1, -1)), "s16", layout)
            frame.rate = self.rate
            resampler = av.AudioResampler("s16", layout, rate)
            found = [*resampler.resample(frame), *resampler.resample(None)]
            parts = [each.to_ndarray().reshape(-1, samples.shape[1]) for each in found]
            samples = np.concatenate(parts)
        return Sound(np.repeat(samples, channels // samples.shape[1], axis=1), rate)


def crossfaded(
    first: Sound | None,
    second: Sound | None,
    times: Float[np.ndarray, " T"],
    influence: Float[np.ndarray, " T"],
    length: float,
) -> Sound:
    """Two sounds at once, the second as loud as its influence and the first as what is left.

    Args:
        times: seconds at which the influence, from 0 to 1, is given; in between on straight lines.
        length: seconds of the result.
    """
    there = [sound for sound in (first, second) if sound is not None]
    rate = max(sound.rate for sound in there)
    channels = max(sound.samples.shape[1] for sound in there)
    count = round(length * rate)
    share = np.interp(np.arange(count) / rate, times, influence)[:, None]
    total = np.zeros((count, channels))
    for sound, gain in ((first, 1 - share), (second, share)):
        if sound is not None:
            samples = sound.resampled(rate, channels).samples[:count]
            total[: len(samples)] += gain[: len(samples)] * samples
    return Sound(np.clip(np.rint(total), -32768, 32767).astype(np.int16), rate)


def arranged(
    pieces: Sequence[tuple[Sound | None, float, float, float]], length: float
) -> Sound | None:
    """Pieces of several sounds on one timeline, see `Sound.arrange`; None where there is none."""
    sounds = {id(sound): sound for sound, *_ in pieces if sound is not None}.values()
    if not sounds:
        return None
    rate = max(sound.rate for sound in sounds)
    channels = max(sound.samples.shape[1] for sound in sounds)
    parts = []
    for sound in sounds:
        own = [(start, end, at) for each, start, end, at in pieces if each is sound]
        parts.append(sound.resampled(rate, channels).arrange(own, length).samples)
    total = np.sum(parts, axis=0, dtype=np.int32)
    return Sound(np.clip(total, -32768, 32767).astype(np.int16), rate)
