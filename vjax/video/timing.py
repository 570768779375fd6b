"""Times of frames to an even frame rate, and one frame rate to another."""

import math
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int, Shaped

from vjax.video.clip import MediaError

_SLACK = 1e-9  # seconds: absorbs float rounding where two times coincide


def even_rate(
    starts: Float[np.ndarray, "T"], end: float, tick: float, declared: float | None = None
) -> tuple[float, float]:
    """The lowest rate at which every frame begins on a beat, or else one near it; and the end.

    Files round times to their clock's tick, so 16 fps in a gif reads 0.06, 0.12 (or 0.13), 0.19 …:
    among rates that fit within a tick, exact ones win, then what the file declares, then familiar
    ones.
    """
    gaps = np.diff(np.append(starts, end))
    gaps = gaps[gaps > tick / 2]
    if not len(gaps):
        return 1.0, 1.0
    # A coarse clock was made for the frame rate and rounds nothing.
    slack = 1.01 * tick if tick <= 0.005 else _SLACK
    film = [rate * 1000 / 1001 for rate in (24, 30, 48, 60, 120)]
    familiar = [*map(float, range(1, 121)), *film]
    hundredths = [100 / k for k in range(2, 200)]
    own = [len(starts) / end, 1 / float(np.median(gaps)), 1 / float(gaps.min())]
    first = [declared] if declared else []

    def fitting(edges: Float[np.ndarray, "N"]) -> float | None:
        found = []
        for order, rate in enumerate([*first, *familiar, *hundredths, *own]):
            if rate > 1000:
                continue
            beats = np.rint(edges * rate)
            error = np.abs(beats / rate - edges).max()
            if error <= slack and (np.diff(beats, prepend=0) >= 1).all():
                found.append((beats[-1], error > 1e-7, order, rate))
        return min(found)[-1] if found else None

    if rate := fitting(np.append(starts[1:], end)):
        return rate, end
    # Some writers note a wrong duration for the last frame: it lasts a beat at least.
    if len(starts) > 2 and (rate := fitting(starts[1:])):
        return rate, max(end, float(starts[-1]) + 1 / rate)
    # A camera whose clock trembles, or drops a frame now and then, has a rate all the same.
    low, middle, high = np.percentile(gaps, [5, 50, 95])
    if high < 1.5 * middle and low > 0.5 * middle:
        rate = float(np.rint(gaps / middle).sum() / gaps.sum())
    else:
        rate = min(60.0, 1 / float(low))
    nearest = min(familiar, key=lambda f: abs(f - rate))
    return (nearest if abs(nearest - rate) < 0.01 * rate else rate), end


def on_clock(
    starts: Float[np.ndarray, "T"], end: float, fps: float, slack: float = _SLACK
) -> Int[np.ndarray, "t"]:
    """Which frame to show at each beat k / fps.

    A frame is taken up to half a beat early (but no more than half of the frame before it): at even
    rates that is the nearest frame in time, and a frame that lasts long is held for as long.
    """
    early = np.minimum(1 / fps, np.diff(starts, prepend=starts[0])) / 2
    count = max(1, math.floor(end * fps + 0.5 + _SLACK))
    slack = min(slack, 0.25 / fps)
    index = np.searchsorted(starts - early - slack, np.arange(count) / fps, side="right") - 1
    return np.clip(index, 0, len(starts) - 1)


def resample(
    frames: Shaped[np.ndarray, "T *rest"], from_fps: float, to_fps: float
) -> Shaped[np.ndarray, "t *rest"]:
    """The frames nearest in time at another rate; the duration stays, to half a frame.

    Raises:
        MediaError: a frame rate outside of 0.01 to 1000.
    """
    check_fps(from_fps)
    check_fps(to_fps)
    if from_fps == to_fps:
        return frames
    starts = np.arange(len(frames)) / from_fps
    return frames[on_clock(starts, len(frames) / from_fps, to_fps)]


def exact_rate(fps: float) -> Fraction:
    """The frame rate that a number means: 29.97 and 29.97003 are 30000/1001.

    Rates of film and television in 1001ths are what is as near as their usual roundings; all else
    is the nearest fraction with a denominator up to 1001.
    """
    for whole in (24, 30, 48, 60, 120):
        film = Fraction(1000 * whole, 1001)
        if math.isclose(fps, film, rel_tol=2e-5):
            return film
    return Fraction(fps).limit_denominator(1001)


def check_fps(fps: float) -> None:
    if not (math.isfinite(fps) and 0.01 <= fps <= 1000):
        raise MediaError(f"The frame rate must be between 0.01 and 1000, got {fps}.")
