"""Where things go: the path of each one through a shot, and the camera's.

Lengths are in units of the frame's shorter side, with the origin at the frame's centre, y down and
time in seconds. Nothing ever leaves the frame: what reaches an edge stays there.
"""

import dataclasses

import numpy as np

from vjax.world.facts import Shot


@dataclasses.dataclass(frozen=True)
class Path:
    """Where a thing is at each time: centre, radius and turn (radians)."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


def place(rng: np.random.Generator, half: float, share: float = 0.75) -> float:
    return float(rng.uniform(-share, share) * max(half, 0.0))


def one_path(
    rng: np.random.Generator,
    motion: str,
    extent: tuple[float, float],
    times: np.ndarray,
    radius: tuple[float, float] = (0.13, 0.24),
    at: tuple[float, float] | None = None,
) -> Path:
    """The path of one thing; `at` fixes the coordinate(s) that its motion leaves free."""
    width, height = extent
    r = np.full(times.shape, rng.uniform(*radius))
    if motion == "grows":
        r = np.minimum(rng.uniform(0.09, 0.12) * (1 + rng.uniform(0.45, 0.7) * times), 0.28)
    elif motion == "shrinks":
        r = np.maximum(rng.uniform(0.22, 0.27) * (1 - rng.uniform(0.25, 0.35) * times), 0.08)
    margin = 1.15 * r.max()
    half_x, half_y = width / 2 - margin, height / 2 - margin
    x0, y0 = at if at is not None else (place(rng, half_x), place(rng, half_y))
    x, y = np.full(times.shape, x0), np.full(times.shape, y0)
    angle = np.zeros(times.shape)
    speed = rng.uniform(0.18, 0.36)
    if motion in ("left", "right"):
        sign = 1 if motion == "right" else -1
        x = sign * np.minimum(rng.uniform(-half_x, min(0.0, half_x)) + speed * times, half_x)
    elif motion in ("up", "down"):
        sign = 1 if motion == "down" else -1
        y = sign * np.minimum(rng.uniform(-half_y, min(0.0, half_y)) + speed * times, half_y)
    elif motion == "bounces":
        phase = (times / rng.uniform(0.8, 1.2) + rng.uniform()) % 1.0
        drop = rng.uniform(0.4, 0.65) * min(2 * half_y, 1.0)
        y = half_y - drop * 4 * phase * (1 - phase)
    elif motion == "circles":
        orbit = rng.uniform(0.15, 0.2)
        turn = rng.uniform(0, 2 * np.pi) + rng.choice((-1, 1)) * times * 2 * np.pi / rng.uniform(
            1.6, 2.4
        )
        x = place(rng, half_x - orbit) + orbit * np.cos(turn)
        y = place(rng, half_y - orbit) + orbit * np.sin(turn)
    elif motion == "spins":
        angle = rng.choice((-1, 1)) * rng.uniform(0.3, 0.55) * 2 * np.pi * times
    return Path(x, y, r, angle)


def pair_paths(
    rng: np.random.Generator, shot: Shot, extent: tuple[float, float], times: np.ndarray
) -> list[Path]:
    first, second = shot.things
    width, height = extent
    radius = (0.11, 0.15)
    if shot.relation == "behind":
        centre = (place(rng, width / 2 - 0.33), place(rng, height / 2 - 0.33))
        turn = rng.uniform(0, 2 * np.pi)
        away = rng.uniform(0.09, 0.12)
        places = [
            (centre[0] + away * np.cos(turn), centre[1] + away * np.sin(turn)),
            (centre[0] - away * np.cos(turn) / 3, centre[1] - away * np.sin(turn) / 3),
        ]
    else:
        apart = rng.uniform(0.19, 0.26)
        along = place(rng, (width if shot.relation == "left of" else height) / 2 - apart - 0.18)
        across = [place(rng, 0.5 - 0.18, 0.5) for _ in range(2)]
        places = [(along - apart, across[0]), (along + apart, across[1])]
        if shot.relation == "above":
            places = [(b, a) for a, b in places]
    return [
        one_path(rng, thing.motion, extent, times, radius, at)
        for thing, at in zip((first, second), places, strict=True)
    ]


def wall_path(
    rng: np.random.Generator, motion: str, extent: tuple[float, float], times: np.ndarray
) -> Path:
    """From one side of the wall to the other, in 1.5 s to 1.75 s, then at rest."""
    radius = rng.uniform(0.1, 0.125)
    reach = min(extent[0] / 2 - 1.2 * radius, 0.6)
    sign = 1 if motion == "right" else -1
    x = sign * np.minimum(-reach + 2 * reach * times / rng.uniform(1.5, 1.75), reach)
    y = np.full(times.shape, place(rng, extent[1] / 2 - 1.2 * radius))
    return Path(x, y, np.full(times.shape, radius), np.zeros(times.shape))


def camera_path(
    rng: np.random.Generator, camera: str, path: Path, extent: tuple[float, float], t: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Offset in x and magnification over time. The camera stops before it loses the thing."""
    offset, zoom = np.zeros(t.shape), np.ones(t.shape)
    half = extent[0] / 2 - 1.15 * path.radius.max()
    if camera.startswith("pan"):
        sign = 1 if camera == "pan right" else -1
        room = half + sign * float(path.x[0])  # a pan to the right moves the thing to the left
        offset = sign * np.minimum(rng.uniform(0.15, 0.28) * t, room)
    elif camera == "zoom in":
        zoom = np.minimum(1 + rng.uniform(0.22, 0.35) * t, 1.7)
    elif camera == "zoom out":
        zoom = 1.7 / np.minimum(1 + rng.uniform(0.22, 0.35) * t, 1.7)
    return offset, zoom
