"""Which shape a thing has: its ink against templates drawn by the world's own distances."""

import dataclasses
import functools

import numpy as np
from einops import rearrange
from scipy import ndimage

from vjax.world import facts
from vjax.world.oracle.background import UNKNOWN
from vjax.world.oracle.sight import Sight
from vjax.world.shapes import distance

_PATCH = 32  # side of the square that shapes are compared in
_PATCH_REACH = 2.4  # half its side, in radii of gyration
# How well a shape has to fit: the longer its outline, the more a ragged edge costs.
_ACCEPT = {
    "circle": 0.955,
    "square": 0.95,
    "triangle": 0.94,
    "star": 0.905,
    "cross": 0.915,
    "ring": 0.89,
}
_ACCEPT_LINE = 0.78  # for lines, which are far apart from each other
_LEAD = ((4.0, 8.0), (0.003, 0.01))  # by how much the next shape is worse, by gyration in pixels
SYMMETRY = {"square": 4, "cross": 4, "triangle": 3, "star": 5}


@dataclasses.dataclass(frozen=True)
class _Templates:
    patches: np.ndarray  # [N, patch * patch], of unit norm
    norms: np.ndarray
    shapes: np.ndarray
    outlined: np.ndarray
    angles: np.ndarray
    gyrations: np.ndarray  # radius of gyration of a thing of unit radius


@functools.cache
def templates() -> _Templates:
    """Every shape at every turn, filled and as a line of several widths, sharp and soft."""
    steps = ((np.arange(_PATCH) + 0.5) / _PATCH * 2 - 1) * _PATCH_REACH
    fine = (np.arange(160) + 0.5) / 160 * 4 - 2
    patches, names, outlined, angles, gyrations = [], [], [], [], []
    for shape in facts.SHAPES:
        order = SYMMETRY.get(shape)
        turns = np.arange(0, 360 / order, 6) if order else np.zeros(1)
        for line in (None, 0.06, 0.085, 0.12, 0.165, 0.22):
            fx, fy = np.meshgrid(fine, fine)
            away = distance(shape, fx, fy)
            drawn = away < 0 if line is None else np.abs(away) < line
            gyration = np.sqrt(((fx**2 + fy**2) * drawn).sum() / drawn.sum())
            for soft in (0.04, 0.13, 0.22):
                seen = np.sqrt(gyration**2 + 2 * soft**2)
                for turn in np.deg2rad(turns):
                    x, y = (a * seen for a in np.meshgrid(steps, steps))
                    x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
                    away = distance(shape, x, y)
                    if line is not None:
                        away = np.abs(away) - line
                    pixel = seen * 2 * _PATCH_REACH / _PATCH
                    ink = np.clip(0.5 - away / pixel, 0, 1)
                    patches.append(ndimage.gaussian_filter(ink, soft / pixel))
                    names.append(shape)
                    outlined.append(line is not None)
                    angles.append(turn)
                    gyrations.append(seen)
    stack = rearrange(np.stack(patches).astype(np.float32), "n y x -> n (y x)")
    return _Templates(
        stack,
        (stack**2).sum(axis=1),
        np.array(names),
        np.array(outlined),
        np.array(angles),
        np.array(gyrations),
    )


def _patch(sight: Sight) -> np.ndarray:
    steps = ((np.arange(_PATCH) + 0.5) / _PATCH * 2 - 1) * _PATCH_REACH * sight.gyration
    ys, xs = sight.y - sight.top - 0.5 + steps, sight.x - sight.left - 0.5 + steps
    grid = np.meshgrid(ys, xs, indexing="ij")
    return ndimage.map_coordinates(sight.ink, grid, order=1).astype(np.float32)


def _fits(sights: list[Sight]) -> np.ndarray:
    """How well each template matches each sight, [sights, N]: one minus the share that differs."""
    bank = templates()
    patches = rearrange(np.stack([_patch(s) for s in sights]), "s y x -> s (y x)")
    norms = (patches**2).sum(axis=1)
    return 2 * (patches @ bank.patches.T) / (norms[:, None] + bank.norms[None, :])


def spread(items: list, most: int) -> list:
    """At most so many of the items, evenly spaced."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


@dataclasses.dataclass(frozen=True)
class Shape:
    name: str
    nearest: str  # the best match, also where the name is unknown
    fit: float
    outlined: bool
    gyration: float  # of the matching template, for the thing's radius


def read_shape(sights: list[Sight]) -> Shape:
    """The shape that most of the sights agree on, or unknown."""
    if not sights:
        return Shape(UNKNOWN, UNKNOWN, 0.0, False, 1.0)
    bank = templates()
    fits = _fits(sights)
    best = fits.argmax(axis=1)
    starts = [int((bank.shapes == name).argmax()) for name in facts.SHAPES]
    by_shape = np.maximum.reduceat(fits, starts, axis=1).T
    votes = by_shape.argmax(axis=0)
    overall = int(by_shape.mean(axis=1).argmax())
    name, fit = facts.SHAPES[overall], float(by_shape[overall].mean())
    agreeing = votes == overall
    # One that changes on the way is no such shape: begin, middle and end have to agree.
    thirds = [part.mean() for part in np.array_split(agreeing, min(3, len(sights)))]
    of_it = best[agreeing] if agreeing.any() else best
    outlined = float(bank.outlined[of_it].mean()) > 0.5
    gyration = float(np.median(bank.gyrations[of_it]))
    means = np.sort(by_shape.mean(axis=1))
    lead = np.interp(np.median([s.gyration for s in sights]), *_LEAD)
    sure = fit > (_ACCEPT_LINE if outlined else _ACCEPT[name]) and means[-1] - means[-2] > lead
    sure = sure and agreeing.mean() >= 0.7 and min(thirds) >= 0.5
    return Shape(name if sure else UNKNOWN, name, fit, outlined, gyration)
