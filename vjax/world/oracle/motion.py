"""How a thing's motion is named: by the curve of the world that fits its track best."""

import numpy as np

from vjax.world.oracle.background import UNKNOWN
from vjax.world.oracle.sight import Sight


def spin(sights: list[Sight], times: np.ndarray, order: int) -> tuple[float, float]:
    """Turn in radians between the first and last sight, and how uneven it is."""
    angles = []
    for sight in sights:
        height, width = sight.ink.shape
        x = (np.arange(width) + 0.5 + sight.left - sight.x)[None, :] / sight.gyration
        y = (np.arange(height) + 0.5 + sight.top - sight.y)[:, None] / sight.gyration
        angles.append(np.angle((sight.ink * (x + 1j * y) ** order).sum()))
    turn = np.unwrap(angles) / order
    line = np.polyfit(times, turn, 1)
    return float(line[0] * np.ptp(times)), float(np.std(turn - np.polyval(line, times)))


def _residual(basis: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of values [T] on each of the bases [N, T] and a constant: RMS and slopes."""
    centred = basis - basis.mean(axis=1, keepdims=True)
    power = (centred**2).sum(axis=1) + 1e-9
    slope = centred @ (values - values.mean()) / power
    left = (values - values.mean())[None, :] - slope[:, None] * centred
    return np.sqrt((left**2).mean(axis=1)), slope


def read_motion(
    times: np.ndarray, x: np.ndarray, y: np.ndarray, size: np.ndarray, turned: float
) -> str:
    """Names the curve that fits a track best; lengths in shorter sides, seconds from zero.

    `turned` is the angle in radians that the thing turned by.
    """
    if len(times) < 3:
        return UNKNOWN
    seconds = float(np.ptp(times))
    unit = min(seconds, 1.0)
    moved = max(np.ptp(x), np.ptp(y))
    # Growth: the world's slowest is 0.45 of the first size a second, shrinking 0.25.
    third = max(1, len(size) // 6)
    grown = float(np.log(np.median(size[-third:]) / np.median(size[:third])))
    grows, shrinks = grown > 0.2 * unit, grown < -0.13 * unit
    spins = abs(turned) > 2 * np.pi * 0.15 * unit
    changes = grows or shrinks or spins
    if moved < max(0.035, 0.09 * unit):
        if not changes:
            return "still"
        if spins and abs(grown) < 0.25:
            return "spins"
        if grows or shrinks:
            return UNKNOWN if spins else ("grows" if grows else "shrinks")
        return UNKNOWN
    rest = {"x": float(x.std()), "y": float(y.std())}
    # A slide: constant speed, then perhaps a stop.
    stops = times[-1] * np.linspace(0.2, 1, 17)
    ramps = np.minimum(times[None, :], stops[:, None])
    options = []
    for values, other, words in ((x, "y", ("left", "right")), (y, "x", ("up", "down"))):
        away, slope = _residual(ramps, values)
        best = int(away.argmin())
        if abs(slope[best] * stops[best]) > max(0.035, 0.08 * unit):
            options.append((float(np.hypot(away[best], rest[other])), words[int(slope[best] > 0)]))
    # A bounce: parabolas that meet at the ground (y grows downwards).
    periods, phases = np.meshgrid(np.linspace(0.7, 1.4, 15), np.arange(0, 1, 1 / 24))
    phase = (times[None, :] / periods.ravel()[:, None] + phases.ravel()[:, None]) % 1.0
    away, slope = _residual(-4 * phase * (1 - phase), y)
    away = np.where((slope > 0.1) & (slope < 1.2), away, np.inf)
    if np.isfinite(away.min()):
        options.append((float(np.hypot(away.min(), rest["x"])), "bounces"))
    # An orbit: a circle run at constant speed.
    z = (x - x.mean()) + 1j * (y - y.mean())
    for turn in (-1, 1):
        for period in np.linspace(1.3, 3.0, 18):
            wave = np.exp(2j * np.pi * turn * times / period)
            wave = wave - wave.mean()
            amount = np.vdot(wave, z) / np.vdot(wave, wave)
            if 0.08 < abs(amount) < 0.32:
                left = np.sqrt((np.abs(z - amount * wave) ** 2).mean())
                options.append((float(left), "circles"))
    if not options:
        return UNKNOWN
    away, name = min(options)
    if changes and (spins or abs(grown) > 0.35):
        return UNKNOWN
    return name if away < max(0.02, 0.12 * moved) else UNKNOWN
