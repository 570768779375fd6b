"""What can be measured of a film: its steps, its colours, and where a thing is in it."""

import numpy as np
from jaxtyping import UInt8

from vjax import world
from vjax.world import oracle

STILL = 0.5  # grey levels: steps between frames that are shorter are no measure of others
LEAST = 0.02  # grey levels: a step


def steps(video: UInt8[np.ndarray, "T H W 3"]) -> np.ndarray:
    """The mean difference from each frame to the next, in grey levels; the last is to the first."""
    following = np.roll(video, -1, axis=0).astype(np.int16)
    return np.abs(following - video).mean(axis=(1, 2, 3))


def is_smooth(video: UInt8[np.ndarray, "T H W 3"]) -> bool:
    """Whether no step is larger than twice the median one."""
    inside = steps(video)[:-1]
    return bool(inside.max() <= 2 * max(np.median(inside), STILL))


def meets(video: UInt8[np.ndarray, "T H W 3"]) -> bool:
    """Whether the step from the last frame to the first is within 1.5 times the median one."""
    *inside, last = steps(video)
    return bool(last <= 1.5 * max(float(np.median(inside)), STILL))


def moves(video: UInt8[np.ndarray, "T H W 3"], facts: world.Facts) -> bool:
    """Whether it moves, where it should; half of the steps at least are steps."""
    still = facts.shots[0].things[0].motion == "still"
    return still or bool(np.median(steps(video)[:-1]) > LEAST)


def decibels(video: UInt8[np.ndarray, "*S"], truth: UInt8[np.ndarray, "*S"]) -> float:
    """PSNR in dB."""
    error = np.mean((video.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def off_course(video: np.ndarray, color: str, truth: np.ndarray, true_color: str) -> float:
    """Mean distance of a thing from where it should be, in widths; half of one where unseen."""
    width = video.shape[2]
    away = np.linalg.norm(oracle.track(video, color) - oracle.track(truth, true_color), axis=1)
    return float(np.where(np.isnan(away), width / 2, away).mean() / width)


def drift(first: UInt8[np.ndarray, "T H W 3"], last: UInt8[np.ndarray, "T H W 3"]) -> float:
    """How far the median pixel, which is background, goes in its worst channel, in grey levels."""
    means = (np.median(clip.reshape(-1, 3), axis=0) for clip in (first, last))
    return float(np.abs(np.subtract(*means)).max())
