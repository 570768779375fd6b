"""The oracle: reads the facts of a clip of the captioned world back from its pixels alone.

`read` never sees the prompt or the facts. It finds the cuts, the background, the things on it, what
each one is and does, and the camera's move; `agree` then compares that with the facts that were
asked for. Generated clips have soft edges and slightly wrong colours, so every decision has a
tolerance; where nothing fits well, the answer is `UNKNOWN` instead of the nearest word.

Steps: split at cuts, fit the background's gradient frame by frame, keep what stands out from it,
name its colours, estimate how much of each pixel a thing covers (its ink), and match the ink,
scaled by its radius of gyration, with templates drawn by the world's own distance functions. Motion
is the curve of the world (rest, slide, parabola, orbit) that fits the track best.
"""

import dataclasses
import functools

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from scipy import ndimage

from vjax.data import world

UNKNOWN = "unknown"

_COLOR_NAMES = tuple(world.COLORS)
_COLOR_VALUES = np.array([world.COLORS[name] for name in _COLOR_NAMES], np.float32)
_WALL = np.array(world.WALL_COLOR, np.float32)
# What the background adds to its gradient; stars are left out since they are dropped by their size.
_SPLATS = {
    "sky": ((38, 26, 12), 0, 1),
    "sunset": ((40, 28, 12), 0, 1),
    "grass": ((16, 26, 12), -1, 1),
}
_NEON_DIM = 0.45
_STANDS_OUT = 34.0  # a pixel this far from the background (RGB distance) belongs to something
_SMALLEST = 0.0035  # area of the smallest thing, in units of the frame's shorter side
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
_SYMMETRY = {"square": 4, "cross": 4, "triangle": 3, "star": 5}


@dataclasses.dataclass(frozen=True)
class ThingReading:
    """What one thing of a shot is and does.

    `centroid` [T, 2] (x, y) and `radius` [T] are in pixels, NaN where the thing is not visible.
    `fit` is how well the named shape (or the nearest one, where it is unknown) matches, 0 to 1.
    `wobble` is the mean relative change of its radius from frame to frame beyond a smooth course.
    """

    shape: str
    color: str
    motion: str
    centroid: np.ndarray
    radius: np.ndarray
    fit: float
    wobble: float


@dataclasses.dataclass(frozen=True)
class ShotReading:
    """What the frames from `start` up to `stop` show.

    Two things are ordered such that `relation` is that of the first to the second. `permanence`
    is None without a wall, else whether one thing went behind it and came out the same.
    `flicker` is the mean absolute change from frame to frame, in grey levels (0 to 255), of the
    background around the things; NaN where the camera moves or there is only one frame.
    """

    start: int
    stop: int
    things: tuple[ThingReading, ...]
    count: int
    background: str
    relation: str | None
    camera: str
    wall: bool
    permanence: bool | None
    style: str
    flicker: float


@dataclasses.dataclass(frozen=True)
class Reading:
    """All that was read from a clip. `cuts` are the first frames of the shots after the first."""

    shots: tuple[ShotReading, ...]
    cuts: tuple[int, ...]
    style: str
    frames: int


# --- Cuts and background -------------------------------------------------------------------------


def _coarse(video: np.ndarray, cells: int = 24) -> np.ndarray:
    """About `cells` samples along each side."""
    step_y, step_x = (max(1, side // cells) for side in video.shape[1:3])
    return video[:, step_y // 2 :: step_y, step_x // 2 :: step_x].astype(np.float32)


def find_cuts(video: UInt8[np.ndarray, "T H W 3"]) -> tuple[int, ...]:
    """First frames of new shots: most of the picture changes at once, within four frames."""
    small = ndimage.uniform_filter(_coarse(video), size=(1, 3, 3, 1))
    frames = len(small)
    if frames < 4:
        return ()

    def change(lag: int) -> np.ndarray:
        moved = np.abs(small[lag:] - small[:-lag]) @ np.full(3, 1 / 3, np.float32)
        return np.median(rearrange(moved, "t h w -> t (h w)"), axis=1)

    step = change(1)
    lag = min(4, frames - 1)
    span = change(lag)
    usual = np.median(span)
    cuts = []
    while span.size and span.max() > max(6.0, 4 * usual):
        at = int(span.argmax())
        cut = at + 1 + int(step[at : at + lag].argmax())
        if not (cut < 2 or cut > frames - 2):
            cuts.append(cut)
        span[max(0, at - lag - 1) : at + lag + 2] = 0
    return tuple(sorted(cuts))


@dataclasses.dataclass(frozen=True)
class _Background:
    name: str
    dim: bool  # as the neon style draws it
    colors: np.ndarray  # [T, H, 3], the gradient in every frame


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...c,...c->...", a, b)


def _family_distance(difference: np.ndarray, name: str, scale: float = 1.0) -> np.ndarray:
    """Distance of pixels to a gradient with any amount of the background's splats on it."""
    if name in _SPLATS:
        splat, low, high = _SPLATS[name]
        splat = np.asarray(splat, np.float32) * scale
        amount = np.clip(difference @ (splat / (splat @ splat)), low, high)
        difference = difference - amount[..., None] * splat
    return np.sqrt(_dot(difference, difference))


def _gradient(name: str, dim: bool, down: np.ndarray) -> np.ndarray:
    top, bottom = (np.asarray(c, np.float32) for c in world._GRADIENTS[name])
    return (top + down[..., None] * (bottom - top)) * (_NEON_DIM if dim else 1.0)


def _read_background(video: np.ndarray, skip: np.ndarray) -> _Background:
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
    for name in world.BACKGROUNDS:
        for dim in (False, True):
            zooms = (1.0, 0.77, 0.6) if name not in ("black", "gray") else (1.0,)
            aways = []
            for zoom in zooms:  # a camera that zooms shows only the middle of the gradient
                color = _gradient(name, dim, 0.5 + zoom * (down[::2] - 0.5))
                difference = few - color[None, :, None]
                aways.append(_family_distance(difference, name, _NEON_DIM if dim else 1.0))
            scores = [np.maximum(1 - away / 50, 0).mean(axis=(1, 2)) for away in aways]
            score = float(np.max(scores, axis=0).mean()) - (0.08 if dim else 0.0)
            if score > best_score:
                best, best_score = (name, dim), score
                best_away = aways[int(np.mean(scores, axis=1).argmax())]
    name, dim = best
    # Two rounds of least squares for colour = a + b * y in each frame, on the pixels that fit.
    small = small[:, :, ::2]
    y = (down - 0.5)[None, :, None]
    colors = np.broadcast_to(_gradient(name, dim, down), (frames, len(rows), 3))
    for tolerance in (50.0, 30.0):
        away = _family_distance(small - colors[:, :, None], name, _NEON_DIM if dim else 1.0)
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
    return _Background(
        name if np.quantile(best_away, 0.35) < 40 else UNKNOWN,
        dim,
        (mean[:, None, :] + slope[:, None, :] * full).astype(np.float32),
    )


def _has_wall(video: np.ndarray) -> bool:
    """Whether a strip of the wall's colour stands in the middle, from top to bottom."""
    frames, height, width, _ = video.shape
    few = video[np.unique(np.linspace(0, frames - 1, min(frames, 8)).astype(int))]
    mean = few.astype(np.float32).mean(axis=0)
    near = np.sqrt(((mean - _WALL) ** 2).sum(axis=-1)) < 32
    across = np.abs(np.arange(width) + 0.5 - width / 2) / min(height, width)
    half = world.WALL_WIDTH / 2
    inside, outside = near[:, across < 0.8 * half], near[:, across > 1.25 * half]
    return bool(inside.mean() > 0.8 and outside.mean() < 0.55)


# --- Things --------------------------------------------------------------------------------------


@functools.cache
def _nearest_color() -> tuple[np.ndarray, np.ndarray]:
    """For every colour of five bits a channel: which of the eight is nearest, and how far."""
    steps = np.arange(32, dtype=np.float32) * 8 + 4
    cube = rearrange(
        np.stack(np.meshgrid(steps, steps, steps, indexing="ij")), "c r g b -> (r g b) c"
    )
    away = np.sqrt(((cube[:, None] - _COLOR_VALUES) ** 2).sum(axis=-1))
    return away.argmin(axis=1).astype(np.uint8), away.min(axis=1).astype(np.float32)


def _name_color(value: np.ndarray) -> str:
    away = np.sqrt(((_COLOR_VALUES - value) ** 2).sum(axis=-1))
    first, second = np.sort(away)[:2]
    return _COLOR_NAMES[int(away.argmin())] if first < 62 and first < 0.75 * second else UNKNOWN


@dataclasses.dataclass(frozen=True)
class _Sight:
    """One thing in one frame. `ink` is the share of each pixel of the window that it covers."""

    ink: np.ndarray
    left: int
    top: int
    x: float
    y: float
    gyration: float
    area: float
    whole: bool  # neither cut by the wall nor touched by another thing
    value: np.ndarray  # its colour


def _components(mask: np.ndarray, smallest: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels [T, H, W] of what hangs together within a frame, and the areas by label.

    The area is zero for what is too small.
    """
    frames, height, width = mask.shape
    # One tall picture with an empty row after each frame labels faster than a volume.
    tall = np.zeros((frames, height + 1, width), bool)
    tall[:, :height] = mask
    labels, _ = ndimage.label(rearrange(tall, "t h w -> (t h) w"))
    labels = rearrange(labels, "(t h) w -> t h w", t=frames)[:, :height]
    areas = np.bincount(labels[mask], minlength=1)
    return labels, np.where(areas >= smallest, areas, 0)


def _groups(pixels: np.ndarray, component: np.ndarray) -> list[np.ndarray]:
    """The colours, measured, of the things in a shot, from its pixels [N, 3] that stand out.

    `component` [N] says which pixels hang together.
    """
    if not len(pixels):
        return []
    code = pixels.astype(np.int32) >> 3
    code = (code[:, 0] << 10) | (code[:, 1] << 5) | code[:, 2]
    nearest, away = (table[code] for table in _nearest_color())
    strict = away < 48
    counts = np.bincount(nearest[strict], minlength=len(_COLOR_NAMES))
    values = []
    if counts.sum() > 0.05 * len(pixels):  # few where thin lines glow or are blurred
        for index in np.argsort(-counts):
            if counts[index] > max(0.13 * counts.sum(), 1):
                of_it = pixels[strict & (nearest == index)]
                values.append(np.median(of_it[:: max(1, len(of_it) // 2000)], axis=0))
    # Components with hardly a pixel of a known colour are things of another one.
    known = np.bincount(component[strict], minlength=component.max() + 1)
    strange = (known < 0.1 * np.bincount(component))[component]
    if strange.sum() > 0.25 * len(pixels):
        values.append(np.median(pixels[strange], axis=0))
    return [np.asarray(v, np.float32) for v in values]


def _see(
    video: np.ndarray, background: _Background, wall: np.ndarray
) -> tuple[list[list[list[_Sight]]], np.ndarray, bool]:
    """For each colour and frame the things seen; where anything stands out; whether they glow."""
    frames, height, width, _ = video.shape
    scale = min(height, width)
    smallest = max(3.0, _SMALLEST * scale**2)
    # Most pixels are background: leave them out early.
    plain = np.clip(background.colors + 0.5, 0, 255).astype(np.uint8)
    plain = np.repeat(plain[:, :, None], width, axis=2)
    rough = np.maximum(video, plain) - np.minimum(video, plain) > int(_STANDS_OUT / np.sqrt(3))
    at = np.flatnonzero(rough[..., 0] | rough[..., 1] | rough[..., 2])
    pixels = rearrange(video, "t h w c -> (t h w) c")[at].astype(np.float32)
    rows = rearrange(background.colors, "t h c -> (t h) c")
    far = _family_distance(
        pixels - rows[at // width], background.name, _NEON_DIM if background.dim else 1.0
    )
    stands = far > _STANDS_OUT
    if wall.any():
        like_wall = _dot(pixels - _WALL, pixels - _WALL) < 45**2
        stands &= ~(wall[at % width] & like_wall) & ~_near_edges(wall, scale)[at % width]
    out = np.zeros(video.shape[:3], bool)
    out.ravel()[at[stands]] = True
    labels, areas = _components(out, smallest)
    keep = areas[labels.ravel()[at]] > 0
    at, pixels = at[keep], pixels[keep]
    behind = rows[at // width]
    values = _groups(pixels, labels.ravel()[at])
    # A pixel belongs to the colour whose mixture with the background it is.
    inks, away = [], []
    glows = False
    for value in values:
        toward = value - behind
        ink = _dot(pixels - behind, toward) / np.maximum(_dot(toward, toward), 1.0)
        if len(values) > 1:
            rest = pixels - (behind + np.clip(ink, 0, 1)[:, None] * toward)
            away.append(_dot(rest, rest))
        glows = glows or _glows(video, background, value, out, scale)
        inks.append(_sharpen(ink) if glows else ink)
    owner = np.zeros(video.shape[:3], np.int8)
    if values:
        nearest = np.argmin(away, axis=0) if len(values) > 1 else np.zeros(len(at), int)
        solid = np.stack(inks)[nearest, np.arange(len(at))] > 0.5
        owner.ravel()[at[solid]] = nearest[solid] + 1
    seen = []
    for group, value in enumerate(values, 1):
        parts, part_areas = _components(owner == group, 0.3 * smallest)
        boxes = [None, *ndimage.find_objects(parts)]  # as labels count from one
        by_frame: list[list[int]] = [[] for _ in range(frames)]
        for index, box in enumerate(boxes):
            if part_areas[index]:
                by_frame[box[0].start].append(index)
        per_frame = []
        for t, indices in enumerate(by_frame):
            pieces = _join(indices, boxes, part_areas, parts[t], labels[t])
            largest = max((sum(part_areas[i] for i in p) for p in pieces), default=0)
            sights = []
            for piece in pieces:
                area = sum(part_areas[i] for i in piece)
                if area < max(0.2 * largest, 0.6 * smallest):
                    continue
                bounds = [boxes[i][1:] for i in piece]
                rows_, columns = (
                    slice(
                        max(0, min(b[d].start for b in bounds) - 3),
                        max(b[d].stop for b in bounds) + 3,
                    )
                    for d in (0, 1)
                )
                mine = parts[t, rows_, columns] == piece[0]
                for index in piece[1:]:
                    mine |= parts[t, rows_, columns] == index
                of_others = owner[t, rows_, columns]
                of_others = (of_others > 0) & (of_others != group)
                ink_here = _ink(video[t, rows_, columns], background.colors[t, rows_], value)
                if glows:
                    ink_here = _sharpen(ink_here)
                left, top = columns.start, rows_.start
                sights.append(_sight(mine, ink_here, of_others, left, top, wall, value, scale))
            per_frame.append(sights)
        seen.append(per_frame)
    return seen, out, glows


def _ink(picture: np.ndarray, rows: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The share of each pixel of a picture [H, W, 3] that a thing of this colour covers."""
    toward = value - rows
    toward = toward / np.maximum(_dot(toward, toward), 1.0)[:, None]
    return np.einsum("yxc,yc->yx", picture - rows[:, None], toward)


def _sharpen(ink: np.ndarray) -> np.ndarray:
    """Leaves of a neon line only the line."""
    return (ink - 0.35) / 0.65


def _near_edges(wall: np.ndarray, scale: int) -> np.ndarray:
    """The columns [W] where the wall begins and ends, which mix its colour with the background."""
    return ndimage.binary_dilation(wall, iterations=max(1, round(0.02 * scale))) & ~(
        ndimage.binary_erosion(wall, iterations=max(1, round(0.02 * scale)))
    )


def _glows(
    video: np.ndarray, background: _Background, value: np.ndarray, out: np.ndarray, scale: int
) -> bool:
    """Whether a neon glow surrounds what is seen."""
    if not (background.dim or background.name == "black"):
        return False
    halos = []
    for t in np.unique(np.linspace(0, len(video) - 1, min(len(video), 5)).astype(int)):
        ink = _ink(video[t], background.colors[t], value)
        core = out[t] & (ink > 0.5)
        if core.any():
            away = ndimage.distance_transform_edt(~core)
            halos.append(np.median(ink[(away > 0.028 * scale) & (away < 0.045 * scale)]))
    return bool(halos and np.median(halos) > 0.055)


def _join(
    indices: list[int], boxes: list, areas: np.ndarray, parts: np.ndarray, labels: np.ndarray
) -> list[list[int]]:
    """Pieces of one thing: one inside the other (a ring's two outlines), or split by another."""
    if len(indices) < 2:
        return [[index] for index in indices]
    joined: list[list[int]] = []
    for index in sorted(indices, key=lambda i: -areas[i]):
        _, rows, columns = boxes[index]
        y, x = (rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2
        union = labels[rows, columns][parts[rows, columns] == index][0]
        for piece in joined:
            _, r, c = boxes[piece[0]]
            nested = r.start <= y <= r.stop and c.start <= x <= c.stop
            if nested or labels[r, c][parts[r, c] == piece[0]][0] == union:
                piece.append(index)
                break
        else:
            joined.append([index])
    return joined


def _grown(mask: np.ndarray) -> np.ndarray:
    """The mask [H, W] and the four neighbours of each of its pixels."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _sight(
    mine: np.ndarray,
    ink: np.ndarray,
    of_others: np.ndarray,
    left: int,
    top: int,
    wall: np.ndarray,
    value: np.ndarray,
    scale: int,
) -> _Sight:
    near = _grown(_grown(mine))
    covered = np.where(near & ~of_others, np.clip((ink - 0.2) / 0.6, 0, 1), 0)
    whole = (of_others & near).sum() < 0.01 * mine.sum() + 2
    if wall.any():
        rim = max(1, round(0.02 * scale)) + (scale > 48)
        edge = np.flatnonzero(wall)
        low, high = np.flatnonzero(mine.any(axis=0))[[0, -1]] + left
        whole &= not (low <= edge[-1] + rim and high >= edge[0] - rim)
    area = float(covered.sum())
    height, width = covered.shape
    ys = np.arange(height, dtype=np.float32) + (top + 0.5)
    xs = np.arange(width, dtype=np.float32) + (left + 0.5)
    across, along = covered.sum(axis=0), covered.sum(axis=1)
    x, y = float(across @ xs) / area, float(along @ ys) / area
    spread = (float(across @ (xs - x) ** 2) + float(along @ (ys - y) ** 2)) / area
    return _Sight(covered, left, top, x, y, float(np.sqrt(spread)), area, bool(whole), value)


# --- Shapes --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Templates:
    patches: np.ndarray  # [N, patch * patch], of unit norm
    norms: np.ndarray
    shapes: np.ndarray
    outlined: np.ndarray
    angles: np.ndarray
    gyrations: np.ndarray  # radius of gyration of a thing of unit radius


@functools.cache
def _templates() -> _Templates:
    """Every shape at every turn, filled and as a line of several widths, sharp and soft."""
    steps = ((np.arange(_PATCH) + 0.5) / _PATCH * 2 - 1) * _PATCH_REACH
    fine = (np.arange(160) + 0.5) / 160 * 4 - 2
    patches, names, outlined, angles, gyrations = [], [], [], [], []
    for shape in world.SHAPES:
        order = _SYMMETRY.get(shape)
        turns = np.arange(0, 360 / order, 6) if order else np.zeros(1)
        for line in (None, 0.06, 0.085, 0.12, 0.165, 0.22):
            fx, fy = np.meshgrid(fine, fine)
            distance = world._distance(shape, fx, fy)
            drawn = distance < 0 if line is None else np.abs(distance) < line
            gyration = np.sqrt(((fx**2 + fy**2) * drawn).sum() / drawn.sum())
            for soft in (0.04, 0.13, 0.22):
                seen = np.sqrt(gyration**2 + 2 * soft**2)
                for turn in np.deg2rad(turns):
                    x, y = (a * seen for a in np.meshgrid(steps, steps))
                    x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
                    distance = world._distance(shape, x, y)
                    if line is not None:
                        distance = np.abs(distance) - line
                    pixel = seen * 2 * _PATCH_REACH / _PATCH
                    ink = np.clip(0.5 - distance / pixel, 0, 1)
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


def _patch(sight: _Sight) -> np.ndarray:
    steps = ((np.arange(_PATCH) + 0.5) / _PATCH * 2 - 1) * _PATCH_REACH * sight.gyration
    ys, xs = sight.y - sight.top - 0.5 + steps, sight.x - sight.left - 0.5 + steps
    grid = np.meshgrid(ys, xs, indexing="ij")
    return ndimage.map_coordinates(sight.ink, grid, order=1).astype(np.float32)


def _fits(sights: list[_Sight]) -> np.ndarray:
    """How well each template matches each sight, [sights, N]: one minus the share that differs."""
    bank = _templates()
    patches = rearrange(np.stack([_patch(s) for s in sights]), "s y x -> s (y x)")
    norms = (patches**2).sum(axis=1)
    return 2 * (patches @ bank.patches.T) / (norms[:, None] + bank.norms[None, :])


def _spread(items: list, most: int) -> list:
    """At most so many of the items, evenly spaced."""
    if len(items) <= most:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


@dataclasses.dataclass(frozen=True)
class _Shape:
    name: str
    nearest: str  # the best match, also where the name is unknown
    fit: float
    outlined: bool
    gyration: float  # of the matching template, for the thing's radius


def _read_shape(sights: list[_Sight]) -> _Shape:
    """The shape that most of the sights agree on, or unknown."""
    if not sights:
        return _Shape(UNKNOWN, UNKNOWN, 0.0, False, 1.0)
    bank = _templates()
    fits = _fits(sights)
    best = fits.argmax(axis=1)
    starts = [int((bank.shapes == name).argmax()) for name in world.SHAPES]
    by_shape = np.maximum.reduceat(fits, starts, axis=1).T
    votes = by_shape.argmax(axis=0)
    overall = int(by_shape.mean(axis=1).argmax())
    name, fit = world.SHAPES[overall], float(by_shape[overall].mean())
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
    return _Shape(name if sure else UNKNOWN, name, fit, outlined, gyration)


# --- Motion --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Camera:
    name: str
    offset: np.ndarray  # [T], in shorter sides
    zoom: np.ndarray  # [T]


def _read_camera(
    video: np.ndarray,
    out: np.ndarray,
    wall: np.ndarray,
    fps: float,
    ends: tuple[int, int],
    glow: float,
) -> _Camera:
    """Least-squares shift and magnification of the background between frames some steps apart.

    Looks at the frames between `ends` only: those beside a cut may mix two shots. `glow` is how far
    light reaches from the things, in shorter sides.
    """
    frames, height, width, _ = video.shape
    still = _Camera("static", np.zeros(frames), np.ones(frames))
    if ends[1] - ends[0] < 3:
        return still
    seconds = (ends[1] - ends[0] - 1) / fps
    stride = max(1, round(min(0.2, seconds / 2) * fps))
    keys = np.arange(*ends, stride)
    both = video[keys[[0, -1]]].astype(np.int16)
    change = np.abs(both[1] - both[0]).max(axis=-1)
    labels, areas = _components(out[keys[[0, -1]]], 0.6 * _SMALLEST * min(height, width) ** 2)
    margin = 7 + 2 * round(glow * min(height, width))
    busy = ndimage.maximum_filter((areas[labels] > 0).any(axis=0), size=margin)
    if change[~busy].max(initial=0) < 8:
        return still
    shrink = max(1, min(height, width) // 48)
    tall, wide = height // shrink * shrink, width // shrink * shrink
    pool = "k (y p) (x q) -> k y x"
    grey = video[keys, :tall, :wide].astype(np.float32).sum(axis=-1)
    grey = reduce(grey, pool, "mean", p=shrink, q=shrink)
    hide = out | wall[None, None, :]
    hide = reduce(hide[keys, :tall, :wide].astype(np.float32), pool, "max", p=shrink, q=shrink)
    labels, areas = _components(hide > 0, 8)
    hide = areas[labels] > 0  # without the stars
    scale = min(height, width) / shrink
    margin = 7 + 2 * round(glow * scale)
    valid = ~ndimage.maximum_filter(hide, size=(1, margin, margin))
    filled = np.where(hide, 0, grey)
    blur = functools.partial(ndimage.gaussian_filter, sigma=(0, 1.6, 1.6))
    grey = blur(filled) / np.maximum(blur((~hide).astype(np.float32)), 0.05)
    x = (np.arange(grey.shape[2]) + 0.5 - grey.shape[2] / 2) / scale
    y = (np.arange(grey.shape[1]) + 0.5 - grey.shape[1] / 2) / scale
    pans, zooms = [0.0], [0.0]
    for first, second, ok in zip(grey[:-1], grey[1:], valid[:-1] & valid[1:], strict=True):
        pan = zoom = 0.0
        for _ in range(3):
            # Brightness at x is that at x - (pan + zoom * x) before: both gradients, first order.
            at = np.meshgrid(
                (y - zoom * y) * scale + (len(y) - 1) / 2,
                (x - pan - zoom * x) * scale + (len(x) - 1) / 2,
                indexing="ij",
            )
            warped = ndimage.map_coordinates(first, at, order=1, mode="nearest")
            inside = ok & (at[0] > 0) & (at[0] < len(y) - 1) & (at[1] > 0) & (at[1] < len(x) - 1)
            gy, gx = np.gradient((warped + second) / 2, 1 / scale)
            sideways, change = gx[inside], (second - warped)[inside]
            radial = (gx * x[None, :] + gy * y[:, None])[inside]
            noise = 100.0 * max(len(change), 1)  # so that a plain background seems at rest
            a, b, c = sideways @ sideways + noise, sideways @ radial, radial @ radial + noise
            det = a * c - b * b
            p, q = -(sideways @ change), -(radial @ change)
            pan, zoom = pan + (c * p - b * q) / det, zoom + (a * q - b * p) / det
            if abs(pan) < 0.003 and abs(zoom) < 0.004:
                break
        pans.append(pan)
        zooms.append(zoom)
    pan, zoom = np.cumsum(pans), np.cumsum(zooms)
    least = min((keys[-1] - keys[0]) / fps, 1.2)
    zooms_in = abs(zoom[-1]) * 0.5 > abs(pan[-1])
    if zooms_in:
        pan = np.zeros_like(pan)
    else:
        zoom = np.zeros_like(zoom)
    # Over a longer time, the move has to explain the picture better than rest does.
    apart = min(3, len(keys) - 1)
    gains = np.array([0.0, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35])
    errors = np.zeros(len(gains))
    for k in range(len(keys) - apart):
        ok = valid[k] & valid[k + apart]
        for index, gain in enumerate(gains):
            by = gain * (pan[k + apart] - pan[k])
            grown = np.exp(gain * (zoom[k + apart] - zoom[k]))
            at = np.meshgrid(
                y / grown * scale + (len(y) - 1) / 2,
                (x - by) / grown * scale + (len(x) - 1) / 2,
                indexing="ij",
            )
            inside = ok & (at[0] > 0) & (at[0] < len(y) - 1) & (at[1] > 0) & (at[1] < len(x) - 1)
            warped = ndimage.map_coordinates(grey[k], at, order=1, mode="nearest")
            errors[index] += ((grey[k + apart] - warped)[inside] ** 2).mean() if inside.any() else 0
    best = int(errors.argmin())
    if errors[best] > 0.65 * errors[0]:
        return still
    pan, zoom = gains[best] * pan, gains[best] * zoom
    offset = -np.interp(np.arange(frames), keys, pan)
    if zooms_in and abs(zoom[-1]) > 0.085 * least:
        zoom = np.exp(np.interp(np.arange(frames), keys, zoom))
        return _Camera("zoom in" if zoom[-1] > 1 else "zoom out", np.zeros(frames), zoom)
    if not zooms_in and abs(pan[-1]) > 0.06 * least:
        return _Camera("pan right" if offset[-1] > 0 else "pan left", offset, np.ones(frames))
    return still


def _spin(sights: list[_Sight], times: np.ndarray, order: int) -> tuple[float, float]:
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


def _read_motion(
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


# --- Shots ---------------------------------------------------------------------------------------

_Track = dict[int, _Sight]


def _tracks(seen: list[list[list[_Sight]]], wall: bool) -> tuple[list[list[_Track]], int]:
    """What is seen, followed through time, and how many things there are at once.

    A thing is a list of tracks: several where one took the place of another, as when the colour
    changes on the way.
    """
    frames = len(seen[0]) if seen else 0
    tracks: list[_Track] = []
    for per_frame in seen:
        counts = [len(sights) for sights in per_frame if sights]
        if not counts:
            continue
        usual = int(np.bincount(counts).argmax())
        begin = next(t for t, sights in enumerate(per_frame) if len(sights) == usual)
        group: list[_Track] = [{begin: s} for s in per_frame[begin]]
        for order in (range(begin + 1, frames), range(begin - 1, -1, -1)):
            last = [track[begin] for track in group]
            for t in order:
                free = list(per_frame[t])
                for index, track in enumerate(group):
                    if not free:
                        break
                    if usual == 1:
                        near = max(free, key=lambda s: s.area)
                    else:
                        at = last[index]
                        near = min(free, key=lambda s: np.hypot(s.x - at.x, s.y - at.y))
                    free = [s for s in free if s is not near]
                    track[t] = last[index] = near
        tracks += group
    totals = np.zeros(frames, int)
    for per_frame in seen:
        totals += [len(sights) for sights in per_frame]
    if not tracks or (not wall and np.median(totals) == 0):
        return [], 0
    count = int(np.bincount(totals[totals > 0] if wall else totals).argmax())
    things: list[list[_Track]] = []
    for track in sorted(tracks, key=len, reverse=True):
        for thing in things:
            taken = set().union(*thing)
            if len(taken & set(track)) <= 0.1 * len(track):
                thing.append(track)
                break
        else:
            things.append([track])
    things = [thing for thing in things if len(set().union(*thing)) >= 0.4 * frames or wall]
    things.sort(key=lambda thing: -sum(s.area for track in thing for s in track.values()))
    return things[: max(count, 1)], max(count, 1)


def _track_color(thing: list[_Track]) -> str:
    names: dict[str, int] = {}
    for track in thing:
        for sight in track.values():
            name = _name_color(sight.value)
            names[name] = names.get(name, 0) + 1
    name = max(names, key=names.__getitem__)
    return name if names[name] >= 0.85 * sum(names.values()) else UNKNOWN


def _seen_whole(sights: _Track, beside_wall: bool = False) -> list[int]:
    """The frames that show a thing whole; beside a wall, less the ones where it is thinner."""
    whole = sorted(t for t, s in sights.items() if s.whole)
    if beside_wall and whole:
        full = np.quantile([sights[t].area for t in whole], 0.8)
        whole = [t for t in whole if sights[t].area > 0.85 * full]
    return whole


def _read_thing(
    thing: list[_Track],
    camera: _Camera,
    size: tuple[int, int],
    fps: float,
    shape: _Shape | None,
    wall: bool,
) -> tuple[ThingReading, _Shape]:
    """`shape` is given where it was read already. `wall`: whether there is one."""
    frames, scale = len(camera.zoom), min(size)
    sights: _Track = {t: s for track in reversed(thing) for t, s in track.items()}
    whole = _seen_whole(sights, wall) or sorted(sights)
    if shape is None:
        shape = _read_shape(_spread([sights[t] for t in whole], 9))
    centroid, radius = np.full((frames, 2), np.nan), np.full(frames, np.nan)
    for t, sight in sights.items():
        centroid[t] = sight.x, sight.y
        radius[t] = sight.gyration / shape.gyration
    at = np.array(whole)
    times = (at - at[0]) / fps
    zoom = camera.zoom[at]
    x = (centroid[at, 0] - size[1] / 2) / scale / zoom + camera.offset[at]
    y = (centroid[at, 1] - size[0] / 2) / scale / zoom
    grown = np.array([sights[t].gyration for t in whole]) / scale / zoom
    turned = 0.0
    order = _SYMMETRY.get(shape.name)
    if order and len(at) > 2:
        turned, uneven = _spin([sights[t] for t in whole], times, order)
        turned = turned if uneven < 0.25 else 0.0
    motion = _read_motion(times, x, y, grown, turned)
    steady = np.abs(np.diff(np.log(grown), 2)).mean() if len(grown) > 2 else 0.0
    color = _track_color(thing)
    return ThingReading(
        shape.name, color, motion, centroid, radius, shape.fit, float(steady)
    ), shape


def _kept_identity(thing: list[_Track], width: int) -> bool:
    """Whether a thing went behind the wall in the middle and came out the same."""
    sights = {t: s for track in thing for t, s in track.items()}
    whole = _seen_whole(sights, True)
    sides = [[t for t in whole if (sights[t].x > width / 2) == right] for right in (False, True)]
    if not all(sides):
        return False
    before, after = sorted(sides, key=lambda side: side[0])
    if before[-1] > after[0]:
        return False
    full = np.median([sights[t].area for t in before])
    hidden = any(
        t not in sights or sights[t].area < 0.4 * full for t in range(before[-1] + 1, after[0])
    )
    shapes, colors, sizes = [], [], []
    for side in (before, after):
        shapes.append(_read_shape(_spread([sights[t] for t in side], 6)).nearest)
        colors.append(_track_color([{t: sights[t] for t in side}]))
        sizes.append(np.median([sights[t].gyration for t in side]))
    same = shapes[0] == shapes[1] and colors[0] == colors[1] != UNKNOWN
    return bool(hidden and same and 0.75 < sizes[1] / sizes[0] < 1.33)


def _behind(front: _Sight, back: _Sight, scale: int, outlined: bool) -> tuple[str, float]:
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
        distance = radius * world._distance(shape, x / radius, y / radius)
        if outlined:
            distance = np.abs(distance) - 0.016 * scale
        ink = np.clip(0.5 - distance / 1.5, 0, 1)
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
    for shape in world.SHAPES:
        first = score(shape, coarse, max(1, len(xs) // 200))
        fit = float(score(shape, coarse[int(first.argmax())] + finer, 1).max())
        best = max(best, (shape, fit), key=lambda b: b[1])
    return best


def _read_overlap(
    pair: list[list[_Track]], scale: int
) -> tuple[list[list[_Track]], list[_Shape]] | None:
    """The hidden thing first, then the one in front, and their shapes; None where none overlaps."""
    tracks = [{t: s for track in thing for t, s in track.items()} for thing in pair]
    both = sorted(set(tracks[0]) & set(tracks[1]))
    touching = [t for t in both if not (tracks[0][t].whole and tracks[1][t].whole)]
    if not both or len(touching) < 0.5 * len(both):
        return None
    at = _spread(touching, 2)
    fronts = [_read_shape([track[t] for t in at]) for track in tracks]
    found = []
    for back, front in ((0, 1), (1, 0)):
        shape = fronts[front]
        if shape.fit < fronts[back].fit - 0.08:  # far from whole, so this is not the one in front
            continue
        hidden = [_behind(tracks[front][t], tracks[back][t], scale, shape.outlined) for t in at]
        fit = float(np.mean([f for _, f in hidden]))
        name = max(hidden, key=lambda h: h[1])[0]
        bank = _templates()
        size = float(bank.gyrations[(bank.shapes == name)].min()) if name != UNKNOWN else 1.0
        behind = _Shape(name if fit > 0.88 else UNKNOWN, name, fit, shape.outlined, size)
        found.append((fit + shape.fit, [pair[back], pair[front]], [behind, shape]))
    _, things, shapes = max(found, key=lambda f: f[0])
    return things, shapes


def _relate(first: ThingReading, second: ThingReading) -> tuple[str, bool]:
    """How two things that do not overlap lie, and whether their order has to be turned."""
    apart = np.nanmedian(second.centroid - first.centroid, axis=0)
    motions = {first.motion, second.motion}
    across = abs(apart[0]) > abs(apart[1])
    # What moves up or down stays to the left; what moves sideways stays above.
    if motions & {"up", "down", "bounces"}:
        across = True
    elif motions & {"left", "right"}:
        across = False
    return ("left of", bool(apart[0] < 0)) if across else ("above", bool(apart[1] < 0))


def _flicker(video: np.ndarray, out: np.ndarray) -> float:
    if len(video) < 2:
        return float("nan")
    busy = ndimage.binary_dilation(out.any(axis=0), iterations=3)
    if busy.all():
        return float("nan")
    video, busy = video[:, ::2, ::2], busy[::2, ::2]
    free = video[:, ~busy].astype(np.int16)
    return float(np.abs(np.diff(free, axis=0)).mean())


def _read_shot(
    video: np.ndarray, start: int, fps: float, pixels: bool, cut: tuple[bool, bool]
) -> ShotReading:
    """`pixels`: it is pixel art. `cut`: whether there is one before and one after."""
    frames, height, width, _ = video.shape
    scale = min(height, width)
    has_wall = _has_wall(video)
    strip = np.abs(np.arange(width) + 0.5 - width / 2) < world.WALL_WIDTH / 2 * scale
    wall = strip & has_wall
    background = _read_background(video, wall)
    seen, out, glows = _see(video, background, wall)
    things, count = _tracks(seen, has_wall)
    if background.name in ("black", "gray") or has_wall:
        camera = _Camera("static", np.zeros(frames), np.ones(frames))
    else:
        camera = _read_camera(
            video, out, wall, fps, (2 * cut[0], frames - 2 * cut[1]), 0.06 * glows
        )
    shapes: list[_Shape | None] = [None] * len(things)
    relation = None
    if len(things) == 2:
        overlap = _read_overlap(things, scale)
        if overlap is not None:
            things, shapes = overlap
            relation = "behind"
    readings, found = [], []
    for thing, shape in zip(things, shapes, strict=True):
        reading, shape = _read_thing(thing, camera, (height, width), fps, shape, has_wall)
        readings.append(reading)
        found.append(shape)
    if len(things) == 2 and relation is None:
        relation, turn = _relate(*readings)
        readings = readings[::-1] if turn else readings
    style = "flat"
    if pixels:
        style = "pixel"
    elif glows:
        style = "neon"
    elif found and all(shape.outlined for shape in found):
        style = "outline"
    return ShotReading(
        start=start,
        stop=start + frames,
        things=tuple(readings),
        count=count,
        background=background.name,
        relation=relation,
        camera=camera.name,
        wall=has_wall,
        permanence=(
            bool(count == 1 and readings and readings[0].shape != UNKNOWN)
            and _kept_identity(things[0], width)
            if has_wall
            else None
        ),
        style=style,
        flicker=_flicker(video, out) if camera.name == "static" else float("nan"),
    )


def _blocks(video: np.ndarray) -> int:
    """Side of the blocks that pixel art of this size is made of, or 1 if this is none."""
    side = max(2, min(video.shape[1:3]) // 24)
    few = video[:: max(1, len(video) // 4)].astype(np.float32)
    inside, between = 0.0, 0.0
    for axis in (1, 2):
        change = np.abs(np.diff(few, axis=axis)).mean(axis=tuple({0, 1, 2, 3} - {axis}))
        seam = np.arange(1, len(change) + 1) % side == 0
        between, inside = between + change[seam].mean(), inside + change[~seam].mean()
    return side if between > 8 * inside else 1


def _decimate(video: np.ndarray, side: int) -> np.ndarray:
    """One pixel for each block."""
    at = [np.minimum(np.arange(0, n, side) + side // 2, n - 1) for n in video.shape[1:3]]
    return np.ascontiguousarray(video[:, at[0]][:, :, at[1]])


def read(video: UInt8[np.ndarray, "T H W 3"], fps: float = 16.0) -> Reading:
    """Reads what a clip shows, from its pixels and frame rate alone."""
    side = _blocks(video)
    small = _decimate(video, side) if side > 1 else video
    cuts = find_cuts(small)
    edges = (0, *cuts, len(video))
    shots = []
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        around = (start > 0, stop < len(video))
        shot = _read_shot(small[start:stop], start, fps, side > 1, around)
        if side > 1:
            things = tuple(
                dataclasses.replace(t, centroid=t.centroid * side, radius=t.radius * side)
                for t in shot.things
            )
            shot = dataclasses.replace(shot, things=things)
        shots.append(shot)
    return Reading(tuple(shots), cuts, shots[0].style, len(video))


# --- Comparison ----------------------------------------------------------------------------------


def agree(facts: world.Facts, reading: Reading) -> dict[str, bool]:
    """Which of the facts the reading bears out, and "all" for all of them.

    Keys are "color", "shape", "motion", "background", "count", "camera", "style" and "cut", then
    "relation" and "permanence" where the facts have them. With two things or two shots a key is
    true only if it is right in each. A single frame has no motion, camera or permanence.
    """
    expected = [(0, reading.frames)]
    if len(facts.shots) == 2:
        cut = world.cut_frame(reading.frames)
        expected = [(0, cut), (cut, reading.frames)]
        found = len(reading.cuts) == 1 and abs(reading.cuts[0] - cut) <= 2
    else:
        found = not reading.cuts
    result = {"cut": found, "style": facts.style == reading.style}
    for shot, (start, stop) in zip(facts.shots, expected, strict=True):
        middle = (start + stop) // 2
        seen = next(s for s in reading.shots if s.start <= middle < s.stop)
        for key, value in _agree_shot(shot, seen, reading.frames > 1).items():
            result[key] = result.get(key, True) and value
    return result | {"all": all(result.values())}


def _agree_shot(shot: world.Shot, seen: ShotReading, moving: bool) -> dict[str, bool]:
    def right(order: tuple[ThingReading, ...], key: str) -> bool:
        return len(order) == len(shot.things) and all(
            getattr(asked, key) == getattr(got, key)
            for asked, got in zip(shot.things, order, strict=True)
        )

    keys = ("color", "shape", "motion") if moving else ("color", "shape")
    orders = [seen.things, seen.things[::-1]]
    order = max(orders, key=lambda o: [right(o, "color"), right(o, "shape")])
    result = {key: right(order, key) for key in keys}
    result["background"] = seen.background == shot.background
    result["count"] = seen.count == len(shot.things)
    if shot.relation is not None:
        result["relation"] = seen.relation == shot.relation and order is orders[0]
    if moving:
        result["camera"] = seen.camera == shot.camera
        if shot.wall:
            result["permanence"] = seen.permanence is True
    return result


def track(
    video: UInt8[np.ndarray, "T H W 3"], thing_color: str | None = None
) -> Float[np.ndarray, "T 2"]:
    """Centroids (x, y) in pixels of the largest thing, or of the largest one of a colour.

    NaN where it is not visible. Nothing is asked of its shape or motion, so that this also follows
    what `read` cannot name.
    """
    centroids = np.full((len(video), 2), np.nan)
    edges = (0, *find_cuts(video), len(video))
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        shot = video[start:stop]
        _, height, width, _ = shot.shape
        strip = np.abs(np.arange(width) + 0.5 - width / 2)
        wall = (strip < world.WALL_WIDTH / 2 * min(height, width)) & _has_wall(shot)
        seen, _, _ = _see(shot, _read_background(shot, wall), wall)
        things, _ = _tracks(seen, bool(wall.any()))
        if thing_color is not None:
            things = [thing for thing in things if _track_color(thing) == thing_color]
        for piece in things[0] if things else []:
            for t, sight in piece.items():
                centroids[start + t] = sight.x, sight.y
    return centroids


def largest_step(centroids: Float[np.ndarray, "T 2"]) -> float:
    """The longest way in pixels between neighbouring frames; over a gap, its mean. 0 for none."""
    at = np.flatnonzero(np.isfinite(centroids).all(axis=1))
    if len(at) < 2:
        return 0.0
    steps = np.diff(centroids[at], axis=0)
    return float((np.hypot(steps[:, 0], steps[:, 1]) / np.diff(at)).max())
