"""Two things of which one hides a part of the other."""

import numpy as np
from einops import rearrange
from scipy import ndimage

from vjax.world import facts
from vjax.world.oracle.background import UNKNOWN
from vjax.world.oracle.shape import Shape, read_shape, spread, templates
from vjax.world.oracle.sight import Sight
from vjax.world.oracle.tracks import Track
from vjax.world.shapes import distance


def _behind(front: Sight, back: Sight, scale: int, outlined: bool) -> tuple[str, float]:
    """The best shape, and its fit, for a thing partly hidden by one that is seen in full."""
    top, left = min(front.top, back.top), min(front.left, back.left)
    bottom = max(s.top + s.ink.shape[0] for s in (front, back))
    right = max(s.left + s.ink.shape[1] for s in (front, back))
    canvas = np.zeros((2, bottom - top, right - left), np.float32)
    for plane, s in zip(canvas, (front, back), strict=True):
        rows, columns = s.ink.shape
        plane[s.top - top : s.top - top + rows, s.left - left : s.left - left + columns] = s.ink
    hidden, seen = canvas
    ys, xs = np.nonzero(~ndimage.binary_dilation(hidden > 0.4))
    target = seen[ys, xs]
    xs, ys = (xs + left + 0.5).astype(np.float32), (ys + top + 0.5).astype(np.float32)
    toward = np.arctan2(back.y - front.y, back.x - front.x)

    def score(shape: str, places: np.ndarray, every: int) -> np.ndarray:
        distance_away, turn, radius = (a[:, None].astype(np.float32) for a in places.T)
        x = xs[None, ::every] - (front.x + distance_away * np.cos(toward + turn))
        y = ys[None, ::every] - (front.y + distance_away * np.sin(toward + turn))
        away = radius * distance(shape, x / radius, y / radius)
        if outlined:
            away = np.abs(away) - 0.016 * scale
        ink = np.clip(0.5 - away / 1.5, 0, 1)
        some = target[::every]
        return 2 * (ink @ some) / ((ink**2).sum(axis=1) + some @ some)

    def grid(*axes: np.ndarray) -> np.ndarray:
        return rearrange(np.stack(np.meshgrid(*axes, indexing="ij")), "a i j k -> (i j k) a")

    coarse = grid(
        np.linspace(0.15, 0.23, 5) * scale,
        np.linspace(-0.5, 0.5, 7),
        np.linspace(0.105, 0.155, 4) * scale,
    )
    finer = grid(
        np.linspace(-0.01, 0.01, 3) * scale,
        np.linspace(-0.08, 0.08, 3),
        np.linspace(-0.008, 0.008, 3) * scale,
    )
    best = (UNKNOWN, 0.0)
    for shape in facts.SHAPES:
        first = score(shape, coarse, max(1, len(xs) // 200))
        fit = float(score(shape, coarse[int(first.argmax())] + finer, 1).max())
        best = max(best, (shape, fit), key=lambda b: b[1])
    return best


def read_overlap(
    pair: list[list[Track]], scale: int
) -> tuple[list[list[Track]], list[Shape]] | None:
    """The hidden thing first, then the one in front, and their shapes; None where none overlaps."""
    tracks = [{t: s for track in thing for t, s in track.items()} for thing in pair]
    both = sorted(set(tracks[0]) & set(tracks[1]))
    touching = [t for t in both if not (tracks[0][t].whole and tracks[1][t].whole)]
    if not both or len(touching) < 0.5 * len(both):
        return None
    at = spread(touching, 2)
    fronts = [read_shape([track[t] for t in at]) for track in tracks]
    found = []
    for back, front in ((0, 1), (1, 0)):
        shape = fronts[front]
        if shape.fit < fronts[back].fit - 0.08:  # far from whole, so this is not the one in front
            continue
        hidden = [_behind(tracks[front][t], tracks[back][t], scale, shape.outlined) for t in at]
        fit = float(np.mean([f for _, f in hidden]))
        name = max(hidden, key=lambda h: h[1])[0]
        bank = templates()
        size = float(bank.gyrations[(bank.shapes == name)].min()) if name != UNKNOWN else 1.0
        behind = Shape(name if fit > 0.88 else UNKNOWN, name, fit, shape.outlined, size)
        found.append((fit + shape.fit, [pair[back], pair[front]], [behind, shape]))
    _, things, shapes = max(found, key=lambda f: f[0])
    return things, shapes
