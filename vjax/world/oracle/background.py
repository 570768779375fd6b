"""What lies behind the things: the background's palette and gradient, and the wall."""

import dataclasses

import numpy as np

from vjax.world import facts
from vjax.world.facts import GRADIENTS, NEON_DIM, SPLAT_COLORS

UNKNOWN = "unknown"

WALL = np.array(facts.WALL_COLOR, np.float32)
# How much of its splats a background has anywhere; stars are left out since they are dropped by
# their size.
_SPLATS = {"sky": (0, 1), "sunset": (0, 1), "grass": (-1, 1)}
_CLOSE = 0.1  # by how much another palette may explain a single frame better


@dataclasses.dataclass(frozen=True)
class Background:
    name: str
    dim: bool  # as the neon style draws it
    colors: np.ndarray  # [T, H, 3], the gradient in every frame


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...c,...c->...", a, b)


def family_distance(difference: np.ndarray, name: str, scale: float = 1.0) -> np.ndarray:
    """Distance of pixels to a gradient with any amount of the background's splats on it."""
    if name in _SPLATS:
        low, high = _SPLATS[name]
        splat = np.asarray(SPLAT_COLORS[name], np.float32) * scale
        amount = np.clip(difference @ (splat / (splat @ splat)), low, high)
        difference = difference - amount[..., None] * splat
    return np.sqrt(dot(difference, difference))


def _gradient(name: str, dim: bool, down: np.ndarray) -> np.ndarray:
    top, bottom = (np.asarray(c, np.float32) for c in GRADIENTS[name])
    return (top + down[..., None] * (bottom - top)) * (NEON_DIM if dim else 1.0)


def read_background(video: np.ndarray, skip: np.ndarray) -> Background:
    """The palette that explains most pixels, then a gradient fitted to every frame.

    `skip` [W] marks the columns of a wall.
    """
    frames, height, width, _ = video.shape
    step_y, step_x = max(1, height // 24), max(1, width // 24)
    rows, columns = np.arange(step_y // 2, height, step_y), np.arange(step_x // 2, width, step_x)
    columns = columns[~skip[columns]]
    small = video[:, rows][:, :, columns].astype(np.float32)
    down = (rows + 0.5).astype(np.float32) / height
    few = small[np.unique(np.linspace(0, frames - 1, min(frames, 5)).astype(int)), ::2, ::2]
    best, best_score, best_away = ("black", False), -1.0, np.zeros(1)
    by_frame = {}
    for name in facts.BACKGROUNDS:
        for dim in (False, True):
            zooms = (1.0, 0.77, 0.6) if name not in ("black", "gray") else (1.0,)
            aways = []
            for zoom in zooms:  # a camera that zooms shows only the middle of the gradient
                color = _gradient(name, dim, 0.5 + zoom * (down[::2] - 0.5))
                difference = few - color[None, :, None]
                aways.append(family_distance(difference, name, NEON_DIM if dim else 1.0))
            scores = [np.maximum(1 - away / 50, 0).mean(axis=(1, 2)) for away in aways]
            by_frame[name, dim] = np.max(scores, axis=0) - (0.08 if dim else 0.0)
            score = float(by_frame[name, dim].mean())
            if score > best_score:
                best, best_score = (name, dim), score
                best_away = aways[int(np.mean(scores, axis=1).argmax())]
    name, dim = best
    # One that changes on the way is no such background.
    holds = (by_frame[best] > np.max(list(by_frame.values()), axis=0) - _CLOSE).all()
    # Two rounds of least squares for colour = a + b * y in each frame, on the pixels that fit.
    small = small[:, :, ::2]
    y = (down - 0.5)[None, :, None]
    colors = np.broadcast_to(_gradient(name, dim, down), (frames, len(rows), 3))
    for tolerance in (50.0, 30.0):
        away = family_distance(small - colors[:, :, None], name, NEON_DIM if dim else 1.0)
        weight = (away < tolerance).astype(np.float32)
        n, sy, syy = ((weight * p).sum(axis=(1, 2)) + e for p, e in ((1, 1e-3), (y, 0), (y * y, 1)))
        sp = np.einsum("tyx,tyxc->tc", weight, small)
        syp = np.einsum("tyx,tyxc->tc", weight * y, small)
        # The ridge (the 1 above) pulls the slope to that of the palette.
        slope0 = _gradient(name, dim, np.ones(1)) - _gradient(name, dim, np.zeros(1))
        det = n * syy - sy**2
        slope = (n[:, None] * (syp + slope0) - sy[:, None] * sp) / det[:, None]
        mean = (sp - slope * sy[:, None]) / n[:, None]
        colors = mean[:, None, :] + slope[:, None, :] * (down - 0.5)[None, :, None]
    full = ((np.arange(height, dtype=np.float32) + 0.5) / height - 0.5)[None, :, None]
    return Background(
        name if holds and np.quantile(best_away, 0.35) < 40 else UNKNOWN,
        dim,
        (mean[:, None, :] + slope[:, None, :] * full).astype(np.float32),
    )


def has_wall(video: np.ndarray) -> bool:
    """Whether a strip of the wall's colour stands in the middle, from top to bottom."""
    frames, height, width, _ = video.shape
    few = video[np.unique(np.linspace(0, frames - 1, min(frames, 8)).astype(int))]
    mean = few.astype(np.float32).mean(axis=0)
    near = np.sqrt(((mean - WALL) ** 2).sum(axis=-1)) < 32
    across = np.abs(np.arange(width) + 0.5 - width / 2) / min(height, width)
    half = facts.WALL_WIDTH / 2
    inside, outside = near[:, across < 0.8 * half], near[:, across > 1.25 * half]
    return bool(inside.mean() > 0.8 and outside.mean() < 0.55)
