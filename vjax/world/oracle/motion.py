"""How a thing's motion is named: by the curve of the world that fits its course best.

A motion holds throughout. What changes at once, goes back, or is over after a few frames is none of
the world's, and neither is stillness a name for what fits nothing: then the answer is `UNKNOWN`.
"""

import dataclasses

import numpy as np

from vjax.world.oracle.background import UNKNOWN
from vjax.world.oracle.sight import Sight

# Within these, a thing is at rest: shorter sides, log of its size, radians.
_RESTS_PLACE, _RESTS_SIZE, _RESTS_TURN = 0.04, 0.12, 0.22
_RESTS_STEP = 0.01  # and so far does it go between frames, root mean square
# While it moves, its size and turn are seen less well, where it is blurred.
_MOVES_SIZE = 0.35
_ROUGH = 0.12  # how far from its curve a course may be, as a share of its extent
_AT_ONCE = (
    0.3  # the share of a change that may happen between two frames, or in a fifth of a second
)
_LEAST_SECONDS = 0.3  # a change takes at least this long


@dataclasses.dataclass(frozen=True)
class Course:
    """Where a thing is, how large and how turned, over time.

    Lengths are in shorter sides, time in seconds from zero, angles in radians; `turn` is None where
    the shape shows none.
    """

    times: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: np.ndarray
    turn: np.ndarray | None


def turns(sights: list[Sight], order: int) -> np.ndarray:
    """The angle in radians of a shape that looks the same after a turn by 2π / `order`."""
    angles = []
    for sight in sights:
        height, width = sight.ink.shape
        x = (np.arange(width) + 0.5 + sight.left - sight.x)[None, :] / sight.gyration
        y = (np.arange(height) + 0.5 + sight.top - sight.y)[:, None] / sight.gyration
        angles.append(np.angle((sight.ink * (x + 1j * y) ** order).sum()))
    return np.unwrap(angles) / order


def read_motion(course: Course) -> str:
    """The name of the motion that the whole course bears out."""
    times, x, y = course.times, course.x, course.y
    if len(times) < 3:
        return UNKNOWN
    seconds = float(np.ptp(times))
    unit = min(seconds, 1.0)
    size = np.log(course.size)
    turn = np.zeros(len(times)) if course.turn is None else course.turn
    extent = max(np.ptp(x), np.ptp(y))
    steps = np.diff(x) ** 2 + np.diff(y) ** 2
    if extent < _RESTS_PLACE and np.sqrt(steps.mean()) < _RESTS_STEP:
        same_size, same_turn = np.ptp(size) < _RESTS_SIZE, np.ptp(turn) < _RESTS_TURN
        if same_size and same_turn:
            return "still"
        if same_size:
            # The world's slowest turns by 0.3 of a round in a second.
            return (
                "spins" if _steady(times, turn, 2 * np.pi * 0.15 * unit, stops=False) else UNKNOWN
            )
        # And the slowest growth is 0.45 of the first size a second, shrinking 0.25.
        if same_turn and _steady(times, course.size, 0.16 * course.size[0] * unit):
            grown = size[-1] - size[0]
            if grown > 0.2 * unit or grown < -0.13 * unit:
                return "grows" if grown > 0 else "shrinks"
        return UNKNOWN
    if np.ptp(np.quantile(size, (0.05, 0.95))) > _MOVES_SIZE:
        return UNKNOWN
    if _steady(times, turn, 2 * np.pi * 0.15 * unit):
        return UNKNOWN
    return _read_path(times, x, y)


def _read_path(times: np.ndarray, x: np.ndarray, y: np.ndarray) -> str:
    """Which of the world's paths fits best: a slide, a bounce, an orbit."""
    unit = min(float(np.ptp(times)), 1.0)
    extent = max(np.ptp(x), np.ptp(y))
    rest = {"x": float(x.std()), "y": float(y.std())}
    options = []
    for values, other, words in ((x, "y", ("left", "right")), (y, "x", ("up", "down"))):
        away, slope, _ = _ramp(times, values)
        if _steady(times, values, max(0.04, 0.08 * unit)):
            options.append((float(np.hypot(away, rest[other])), words[int(slope > 0)]))
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
    return name if away < max(0.02, _ROUGH * extent) else UNKNOWN


def _residual(basis: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of values [T] on each of the bases [N, T] and a constant: RMS and slopes."""
    centred = basis - basis.mean(axis=1, keepdims=True)
    power = (centred**2).sum(axis=1) + 1e-9
    slope = centred @ (values - values.mean()) / power
    left = (values - values.mean())[None, :] - slope[:, None] * centred
    return np.sqrt((left**2).mean(axis=1)), slope


def _ramp(times: np.ndarray, values: np.ndarray, stops: bool = True) -> tuple[float, float, float]:
    """The best fit of a constant change that may come to a stop: RMS, change, when it stops."""
    at = times[-1] * (np.linspace(0.2, 1, 17) if stops else np.ones(1))
    away, slope = _residual(np.minimum(times[None, :], at[:, None]), values)
    best = int(away.argmin())
    return float(away[best]), float(slope[best] * at[best]), float(at[best])


def _steady(times: np.ndarray, values: np.ndarray, least: float, stops: bool = True) -> bool:
    """Whether values change by at least so much, evenly, and not in a few frames."""
    away, change, _ = _ramp(times, values, stops)
    if abs(change) < least or away > _ROUGH * abs(change):
        return False
    if np.abs(np.diff(values)).max() > max(_AT_ONCE, 1.5 * np.diff(times).max() / times[-1]) * abs(
        change
    ):
        return False
    done = (values - values[0]) / change
    begun, ended = np.flatnonzero(done < 0.1), np.flatnonzero(done < 0.9)
    if not len(begun) or not len(ended):
        return False
    lasts = times[min(ended[-1] + 1, len(times) - 1)] - times[begun[-1]]
    return bool(lasts >= min(_LEAST_SECONDS, 0.3 * times[-1]))
