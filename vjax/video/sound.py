"""What is heard: samples that can be cut and moved along with the frames."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int16

BLOCK = 1 << 16  # samples that are worked on together
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
        result = np.zeros((count, self.samples.shape[1]), np.int16)
        self._lay(result, pieces)
        return Sound(result, self.rate)

    def _lay(
        self, result: Int16[np.ndarray, "N C"], pieces: Sequence[tuple[float, float, float]]
    ) -> None:
        """Adds pieces of this sound to one of the same rate."""
        placed = [[round(t * self.rate) for t in piece] for piece in pieces]
        heads = {(start, at) for start, _, at in placed}
        tails = {(end, at + end - start) for start, end, at in placed}
        for start, end, at in placed:
            first = start + max(0, -start, -at)
            last = min(end, len(self.samples), start + len(result) - at)
            steps = max(min(math.ceil(FADE * self.rate), last - first) - 1, 1)
            rises = first > 0 and (start, at) not in tails
            falls = last < len(self.samples) and (end, at + end - start) not in heads
            for block in range(first, last, BLOCK):
                number = np.arange(block, min(block + BLOCK, last))[:, None]
                piece = self.samples[block : block + len(number)].astype(np.float32)
                if rises:
                    piece *= np.minimum((number - first) / steps, 1)
                if falls:
                    piece *= np.minimum((last - 1 - number) / steps, 1)
                place = at + block - start
                _add(result[place : place + len(piece)], piece)

    def resampled(self, rate: int, channels: int) -> "Sound":
        """The same at another rate; one channel is heard on all."""
        samples = self.samples
        if rate == self.rate and channels == samples.shape[1]:
            return self
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
    result = np.zeros((round(length * rate), channels), np.int16)
    heard = [None if s is None else s.resampled(rate, channels).samples for s in (first, second)]
    for start in range(0, len(result), BLOCK):
        into = result[start : start + BLOCK]
        share = np.interp((start + np.arange(len(into))) / rate, times, influence)[:, None]
        total = np.zeros(into.shape)
        for samples, gain in zip(heard, (1 - share, share), strict=True):
            if samples is not None:
                some = samples[start : start + len(into)]
                total[: len(some)] += gain[: len(some)] * some
        _add(into, total)
    return Sound(result, rate)


def _add(into: Int16[np.ndarray, "N C"], samples: Float[np.ndarray, "N C"]) -> None:
    into[:] = np.clip(np.rint(into + samples), -32768, 32767)


def arranged(
    pieces: Sequence[tuple[Sound | None, float, float, float]], length: float
) -> Sound | None:
    """Pieces of several sounds on one timeline, see `Sound.arrange`; None where there is none."""
    sounds = {id(sound): sound for sound, *_ in pieces if sound is not None}.values()
    if not sounds:
        return None
    rate = max(sound.rate for sound in sounds)
    channels = max(sound.samples.shape[1] for sound in sounds)
    count = max(0, round(length * rate))
    if len(sounds) == len(pieces) == 1:
        ((sound, start, end, at),) = pieces
        if sound is not None and start == at == 0 and count == len(sound.samples) <= end * rate + 1:
            return sound  # as it is, without another one in memory
    result = np.zeros((count, channels), np.int16)
    for sound in sounds:
        own = [(start, end, at) for each, start, end, at in pieces if each is sound]
        sound.resampled(rate, channels)._lay(result, own)
    return Sound(result, rate)
