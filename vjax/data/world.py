"""The captioned world: short clips of simple things that move, drawn from facts.

A clip is drawn in three steps, each seeded: `sample_facts` chooses what happens, `render` draws it
and `caption` says it in words. Facts are exact, so a model that was trained on this world can be
measured (`vjax.data.oracle` reads them back from pixels).

Geometry is in units of the frame's shorter side, with the origin at the frame's centre, y down and
time in seconds. So one fact looks alike at any size, aspect and frame rate. Nothing ever leaves the
frame: what reaches an edge stays there, so that any clip can be continued.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = {
    "red": (230, 40, 40),
    "orange": (255, 140, 20),
    "yellow": (250, 225, 50),
    "green": (40, 200, 70),
    "blue": (40, 90, 240),
    "purple": (150, 60, 210),
    "pink": (255, 120, 190),
    "white": (245, 245, 245),
}
MOTIONS = (
    "still",
    "left",
    "right",
    "up",
    "down",
    "bounces",
    "circles",
    "spins",
    "grows",
    "shrinks",
)
BACKGROUNDS = ("black", "gray", "sky", "sunset", "night", "grass")
CAMERAS = ("static", "pan left", "pan right", "zoom in", "zoom out")
STYLES = ("flat", "outline", "neon", "pixel")
RELATIONS = ("left of", "above", "behind")

# Never drawn in the training split, so that composition can be measured on them.
HELD_OUT_COLORS = frozenset(
    {
        ("circle", "purple"),
        ("square", "pink"),
        ("triangle", "orange"),
        ("star", "blue"),
        ("cross", "white"),
        ("ring", "green"),
    }
)
HELD_OUT_MOTIONS = frozenset(
    {
        ("circle", "bounces"),
        ("square", "circles"),
        ("triangle", "up"),
        ("star", "shrinks"),
        ("cross", "left"),
        ("ring", "grows"),
    }
)
WALL_COLOR = (125, 95, 80)
WALL_WIDTH = 0.32
WALL_SECONDS = 1.9  # passing behind the wall takes this long
CUT_SECONDS = 1.0  # a clip with two shots is at least this long


@dataclasses.dataclass(frozen=True)
class Thing:
    """One thing: what it is and what it does."""

    shape: str
    color: str
    motion: str = "still"


@dataclasses.dataclass(frozen=True)
class Shot:
    """What one uncut piece of a clip shows. `relation` is the first thing's to the second."""

    things: tuple[Thing, ...]
    background: str
    relation: str | None = None
    camera: str = "static"
    wall: bool = False


@dataclasses.dataclass(frozen=True)
class Facts:
    """Everything that a clip shows: one shot, or two of the same subject with a cut between."""

    shots: tuple[Shot, ...]
    style: str = "flat"


def is_held_out(shape: str, color: str, motion: str) -> bool:
    """Whether a thing belongs to the pairs that the training split never shows."""
    return (shape, color) in HELD_OUT_COLORS or (shape, motion) in HELD_OUT_MOTIONS


def can_show(shape: str, motion: str) -> bool:
    """A circle or a ring that spins looks as if it were still."""
    return not (motion == "spins" and shape in ("circle", "ring"))


# --- Facts ---------------------------------------------------------------------------------------


def sample_thing(
    rng: np.random.Generator, motions: Sequence[str] = MOTIONS, split: str = "train"
) -> Thing:
    """A thing of the split: "train", "held_out" (at least one held-out pair) or "any"."""
    while True:
        thing = Thing(
            shape=str(rng.choice(SHAPES)),
            color=str(rng.choice(list(COLORS))),
            motion=str(rng.choice(motions)),
        )
        held_out = is_held_out(thing.shape, thing.color, thing.motion)
        if can_show(thing.shape, thing.motion) and (
            split == "any" or held_out == (split == "held_out")
        ):
            return thing


def _sample_pair(rng: np.random.Generator, split: str) -> tuple[tuple[Thing, ...], str]:
    relation = str(rng.choice(RELATIONS, p=(0.4, 0.4, 0.2)))
    moves = {
        "left of": ("still", "still", "up", "down", "bounces", "spins"),
        "above": ("still", "still", "left", "right", "spins"),
        "behind": ("still",),
    }[relation]
    while True:
        first = sample_thing(rng, moves, split)
        second = sample_thing(rng, ("still",), "train" if split == "train" else "any")
        if first.color != second.color:
            return (first, second), relation


def sample_facts(rng: np.random.Generator, seconds: float, split: str = "train") -> Facts:
    """Facts of a clip of this length, from the split: "train", "held_out" or "any"."""
    style = str(rng.choice(STYLES, p=(0.85, 0.05, 0.05, 0.05)))
    background = str(rng.choice(BACKGROUNDS))
    kind = rng.choice(
        ("one", "pair", "camera", "wall", "cut"),
        p=(0.6, 0.17, 0.11, 0.06, 0.06),
    )
    if (kind == "wall" and seconds < WALL_SECONDS) or (kind == "cut" and seconds < CUT_SECONDS):
        kind = "one"
    if kind == "pair":
        things, relation = _sample_pair(rng, split)
        return Facts((Shot(things, background, relation),), style)
    if kind == "camera":
        thing = sample_thing(rng, ("still", "spins"), split)
        # A black or gray background would not show that the camera moves.
        background = str(rng.choice([b for b in BACKGROUNDS if b not in ("black", "gray")]))
        camera = str(rng.choice(CAMERAS[1:]))
        return Facts((Shot((thing,), background, camera=camera),), style)
    if kind == "wall":
        thing = sample_thing(rng, ("left", "right"), split)
        return Facts((Shot((thing,), background, wall=True),), style)
    thing = sample_thing(rng, split=split)
    shot = Shot((thing,), background)
    if kind == "one":
        return Facts((shot,), style)
    while True:
        motion = str(rng.choice(MOTIONS))
        other = str(rng.choice([b for b in BACKGROUNDS if b != background]))
        held_out = is_held_out(thing.shape, thing.color, motion)
        if can_show(thing.shape, motion) and not (split == "train" and held_out):
            second = Shot((dataclasses.replace(thing, motion=motion),), other)
            return Facts((shot, second), style)


# --- Drawing -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Path:
    """Where a thing is at each time: centre, radius and turn (radians)."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


def _place(rng: np.random.Generator, half: float, share: float = 0.75) -> float:
    return float(rng.uniform(-share, share) * max(half, 0.0))


def _path(
    rng: np.random.Generator,
    motion: str,
    extent: tuple[float, float],
    times: np.ndarray,
    radius: tuple[float, float] = (0.14, 0.2),
    at: tuple[float, float] | None = None,
) -> _Path:
    """The path of one thing; `at` fixes the coordinate(s) that its motion leaves free."""
    width, height = extent
    r = np.full(times.shape, rng.uniform(*radius))
    if motion == "grows":
        r = np.minimum(rng.uniform(0.09, 0.12) * (1 + rng.uniform(0.45, 0.7) * times), 0.28)
    elif motion == "shrinks":
        r = np.maximum(rng.uniform(0.22, 0.27) * (1 - rng.uniform(0.25, 0.35) * times), 0.08)
    margin = 1.15 * r.max()
    half_x, half_y = width / 2 - margin, height / 2 - margin
    x0, y0 = at if at is not None else (_place(rng, half_x), _place(rng, half_y))
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
        x = _place(rng, half_x - orbit) + orbit * np.cos(turn)
        y = _place(rng, half_y - orbit) + orbit * np.sin(turn)
    elif motion == "spins":
        angle = rng.choice((-1, 1)) * rng.uniform(0.3, 0.55) * 2 * np.pi * times
    return _Path(x, y, r, angle)


def _pair_paths(
    rng: np.random.Generator, shot: Shot, extent: tuple[float, float], times: np.ndarray
) -> list[_Path]:
    first, second = shot.things
    width, height = extent
    radius = (0.11, 0.15)
    if shot.relation == "behind":
        centre = (_place(rng, width / 2 - 0.33), _place(rng, height / 2 - 0.33))
        turn = rng.uniform(0, 2 * np.pi)
        away = rng.uniform(0.09, 0.12)
        places = [
            (centre[0] + away * np.cos(turn), centre[1] + away * np.sin(turn)),
            (centre[0] - away * np.cos(turn) / 3, centre[1] - away * np.sin(turn) / 3),
        ]
    else:
        apart = rng.uniform(0.19, 0.26)
        along = _place(rng, (width if shot.relation == "left of" else height) / 2 - apart - 0.18)
        across = [_place(rng, 0.5 - 0.18, 0.5) for _ in range(2)]
        places = [(along - apart, across[0]), (along + apart, across[1])]
        if shot.relation == "above":
            places = [(b, a) for a, b in places]
    return [
        _path(rng, thing.motion, extent, times, radius, at)
        for thing, at in zip((first, second), places, strict=True)
    ]


def _wall_path(
    rng: np.random.Generator, motion: str, extent: tuple[float, float], times: np.ndarray
) -> _Path:
    """From one side of the wall to the other, in 1.5 s to 1.75 s, then at rest."""
    radius = rng.uniform(0.1, 0.125)
    reach = min(extent[0] / 2 - 1.2 * radius, 0.6)
    sign = 1 if motion == "right" else -1
    x = sign * np.minimum(-reach + 2 * reach * times / rng.uniform(1.5, 1.75), reach)
    y = np.full(times.shape, _place(rng, extent[1] / 2 - 1.2 * radius))
    return _Path(x, y, np.full(times.shape, radius), np.zeros(times.shape))


def _camera_path(
    rng: np.random.Generator, camera: str, path: _Path, extent: tuple[float, float], t: np.ndarray
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


def _polygon(x: np.ndarray, y: np.ndarray, points: int, outer: float, inner: float) -> np.ndarray:
    """Signed distance to the edges of a star polygon that points up, folded into one edge."""
    sector = 2 * np.pi / points
    theta = np.arctan2(x, -y)
    theta -= sector * np.round(theta / sector)
    distance = np.hypot(x, y)
    px, py = distance * np.cos(theta), distance * np.abs(np.sin(theta))
    ex, ey = inner * np.cos(sector / 2) - outer, inner * np.sin(sector / 2)
    return (ey * (px - outer) - ex * py) / np.hypot(ex, ey)


# How far from its centre a shape of unit radius goes, its soft corners included.
_REACH = {"circle": 1, "ring": 1.02, "cross": 1.2, "square": 1.25, "triangle": 1.25, "star": 1.25}


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a shape of unit radius: negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - 1.0
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.78) - 0.24
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.85
    if shape == "cross":
        x, y = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(x - 1, y - 0.34), np.maximum(x - 0.34, y - 1))
    if shape == "triangle":
        return _polygon(x, y, 3, 1.2, 0.6)
    return _polygon(x, y, 5, 1.2, 0.52)


def _draw_thing(
    video: UInt8[np.ndarray, "T H W 3"],
    thing: Thing,
    path: _Path,
    style: str,
    hidden: Float[np.ndarray, " W"],
) -> None:
    """Paints one thing onto the frames, with anti-aliased edges, in place.

    `hidden` is the share of each column that something in front covers.
    """
    frames, height, width, _ = video.shape
    scale = min(height, width)
    stroke = 0.032
    reach = _REACH[thing.shape] * path.radius.max() + (0.12 if style == "neon" else stroke)
    side = int(np.ceil(2 * reach * scale)) + 2
    cx, cy = path.x * scale + width / 2, path.y * scale + height / 2
    left = np.floor(cx - side / 2).astype(int)
    top = np.floor(cy - side / 2).astype(int)
    steps = np.arange(side, dtype=np.float32) + 0.5
    x = (left[:, None] + steps[None, :] - cx[:, None]).astype(np.float32)[:, None, :]
    y = (top[:, None] + steps[None, :] - cy[:, None]).astype(np.float32)[:, :, None]
    cos, sin = (f(path.angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    unit = (path.radius * scale).astype(np.float32)[:, None, None]
    turned_x, turned_y = cos * x + sin * y, cos * y - sin * x
    turned_x /= unit
    turned_y /= unit
    distance = _distance(thing.shape, turned_x, turned_y)
    distance *= unit  # in pixels
    if style in ("outline", "neon"):
        ink = np.clip(0.5 + stroke * scale / 2 - np.abs(distance), 0, 1)
    else:
        ink = np.subtract(0.5, distance, out=distance)
        np.clip(ink, 0, 1, out=ink)
    if style == "neon":
        ink = np.maximum(ink, 0.55 * np.exp(-np.maximum(np.abs(distance), 0) / (0.035 * scale)))
        ink *= ink > 0.03
    color = np.asarray(COLORS[thing.color], np.float32)
    hides = hidden.any()
    for t in range(frames):
        y0, x0 = max(top[t], 0), max(left[t], 0)
        y1, x1 = min(top[t] + side, height), min(left[t] + side, width)
        if y0 >= y1 or x0 >= x1:
            continue
        alpha = ink[t, y0 - top[t] : y1 - top[t], x0 - left[t] : x1 - left[t], None]
        if hides:
            alpha = alpha * (1 - hidden[x0:x1])[None, :, None]
        window = video[t, y0:y1, x0:x1]
        mixed = color - window
        mixed *= alpha
        mixed += window
        mixed += 0.5
        window[...] = mixed


_GRADIENTS = {  # from the top of the frame to its bottom
    "black": ((8, 8, 10), (8, 8, 10)),
    "gray": ((112, 114, 118), (112, 114, 118)),
    "sky": ((70, 140, 215), (150, 200, 240)),
    "sunset": ((75, 50, 115), (215, 120, 85)),
    "night": ((10, 14, 44), (24, 32, 84)),
    "grass": ((58, 112, 48), (46, 94, 40)),
}


def _draw_background(
    rng: np.random.Generator,
    background: str,
    size: tuple[int, int],
    offset: np.ndarray,
    zoom: np.ndarray,
) -> Float[np.ndarray, "T H W 3"]:
    """A gradient and soft splats (clouds, stars, tufts), seen through a moving camera."""
    height, width = size
    scale = min(height, width)
    moving = np.ptp(offset) > 0 or np.ptp(zoom) > 0
    if not moving:
        offset, zoom = offset[:1], zoom[:1]
    span_x, span_y = width / scale + 1.6, height / scale + 0.4
    offset, zoom = (a.astype(np.float32)[:, None] for a in (offset, zoom))
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2)[None, :] / scale / zoom + offset
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2)[None, :] / scale / zoom
    down = np.clip(y / (height / scale) + 0.5, 0, 1)[..., None]
    top, bottom = (np.asarray(c, np.float32) for c in _GRADIENTS[background])
    gradient = (top + down * (bottom - top)).astype(np.float32)
    video = np.repeat(gradient[:, :, None, :], width, axis=2)
    density, sizes, color = {
        "black": (0, (), ()),
        "gray": (0, (), ()),
        "sky": (2.4, ((0.12, 0.22), (0.035, 0.06)), (38, 26, 12)),
        "sunset": (3.0, ((0.2, 0.4), (0.015, 0.03)), (40, 28, 12)),
        "night": (9.0, ((0.007, 0.011), (0.007, 0.011)), (190, 190, 170)),
        "grass": (14.0, ((0.012, 0.02), (0.03, 0.06)), (16, 26, 12)),
    }[background]
    count = round(density * span_x * span_y)
    if count:
        ranges = ((-span_x / 2, span_x / 2), (-span_y / 2, span_y / 2), *sizes, (0.5, 1.0))
        centre_x, centre_y, spread_x, spread_y, strength = (
            rng.uniform(low, high, count).astype(np.float32) for low, high in ranges
        )
        if background == "grass":
            strength *= rng.choice((-1, 1), count)
        across = np.exp(-0.5 * ((x[:, None, :] - centre_x[None, :, None]) / spread_x[:, None]) ** 2)
        along = np.exp(-0.5 * ((y[:, None, :] - centre_y[None, :, None]) / spread_y[:, None]) ** 2)
        along *= strength[:, None]
        # einsum, not matmul: BLAS threads of several loader threads fight over the cores.
        splats = np.einsum("tky,tkx->tyx", along, across)
        if background != "grass":
            splats = np.minimum(splats, 1.0)
        video += splats[..., None] * np.asarray(color, np.float32)
    return video


def _draw_shot(
    rng: np.random.Generator, shot: Shot, style: str, size: tuple[int, int], times: np.ndarray
) -> UInt8[np.ndarray, "T H W 3"]:
    height, width = size
    scale = min(height, width)
    extent = (width / scale, height / scale)
    if shot.wall:
        paths = [_wall_path(rng, shot.things[0].motion, extent, times)]
    elif len(shot.things) == 2:
        paths = _pair_paths(rng, shot, extent, times)
    elif shot.camera.startswith("zoom"):
        near = (_place(rng, 0.1), _place(rng, 0.1))
        paths = [_path(rng, shot.things[0].motion, extent, times, (0.11, 0.15), near)]
    else:
        paths = [_path(rng, shot.things[0].motion, extent, times)]
    if shot.camera.startswith("pan"):  # start on the side that the thing drifts away from
        sign = 1 if shot.camera == "pan right" else -1
        side = sign * rng.uniform(0.05, 0.8) * (extent[0] / 2 - 1.15 * paths[0].radius.max())
        paths = [dataclasses.replace(paths[0], x=np.full(times.shape, side))]
    offset, zoom = _camera_path(rng, shot.camera, paths[0], extent, times)
    background = _draw_background(rng, shot.background, size, offset, zoom)
    if style == "neon":
        background *= 0.45
    hidden = np.zeros(width, np.float32)
    if shot.wall:
        half = WALL_WIDTH * scale / 2
        columns = np.abs(np.arange(width, dtype=np.float32) + 0.5 - width / 2)
        hidden = np.clip(half + 0.5 - columns, 0, 1)
        background += hidden[None, None, :, None] * (
            np.asarray(WALL_COLOR, np.float32) - background
        )
    video = np.clip(background + 0.5, 0, 255).astype(np.uint8)
    if len(video) != len(times):
        video = np.repeat(video, len(times), axis=0)
    for thing, path in zip(shot.things, paths, strict=True):
        seen = _Path((path.x - offset) * zoom, path.y * zoom, path.radius * zoom, path.angle)
        _draw_thing(video, thing, seen, style, hidden)
    return video


def render(
    facts: Facts,
    seed: int | Sequence[int],
    *,
    frames: int,
    height: int,
    width: int,
    fps: float = 16.0,
) -> UInt8[np.ndarray, "T H W 3"]:
    """Draws the facts. The seed decides all that the facts leave open: places, sizes, speeds.

    Sizes from 64 to 256 pixels a side look as designed; any length works. A single frame shows a
    moment from somewhere in the first second.
    """
    rng = np.random.default_rng(seed)
    times = np.arange(frames) / fps
    if frames == 1:
        times = times + rng.uniform(0, 1)
    parts, cut = [], cut_frame(frames) if len(facts.shots) == 2 else frames
    for shot, part in zip(facts.shots, (times[:cut], times[: frames - cut]), strict=False):
        parts.append(_draw_shot(rng, shot, facts.style, (height, width), part))
    video = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return _pixelate(video, max(2, min(height, width) // 24)) if facts.style == "pixel" else video


def cut_frame(frames: int) -> int:
    """The first frame of the second shot of a clip with two."""
    return (frames + 1) // 2


def _pixelate(video: UInt8[np.ndarray, "T H W 3"], block: int) -> UInt8[np.ndarray, "T H W 3"]:
    _, height, width, _ = video.shape
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    total = np.add.reduceat(video, rows, axis=1, dtype=np.float32)
    total = np.add.reduceat(total, columns, axis=2)
    tall, wide = np.diff(np.append(rows, height)), np.diff(np.append(columns, width))
    mean = (total / (tall[:, None] * wide[None, :])[None, :, :, None] + 0.5).astype(np.uint8)
    return np.repeat(np.repeat(mean, tall, axis=1), wide, axis=2)


# --- Words ---------------------------------------------------------------------------------------

# The first wording is the plain one; captions choose among them all.
COLOR_WORDS = {
    "red": ("red", "crimson", "scarlet"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "cobalt"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rose"),
    "white": ("white", "snowy"),
}
SHAPE_WORDS = {
    "circle": ("circle", "ball", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star", "five-pointed star"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
}
MOTION_WORDS = {
    "still": ("stays still", "does not move", "rests", "stands still"),
    "left": ("moves left", "drifts to the left", "slides left", "travels to the left"),
    "right": ("moves right", "drifts to the right", "slides right", "travels to the right"),
    "up": ("moves up", "rises", "floats upward", "goes up"),
    "down": ("moves down", "falls", "sinks downward", "goes down"),
    "bounces": ("bounces", "bounces up and down", "hops up and down"),
    "circles": ("circles around", "moves in a circle", "orbits around"),
    "spins": ("spins", "rotates", "turns around itself", "twirls"),
    "grows": ("grows", "gets bigger", "becomes larger"),
    "shrinks": ("shrinks", "gets smaller", "becomes smaller"),
}
BACKGROUND_WORDS = {
    "black": ("on a black background", "on black", "against a black backdrop"),
    "gray": ("on a gray background", "on gray", "against a grey backdrop"),
    "sky": ("in the sky", "in a blue sky", "across a daytime sky", "against a sky with clouds"),
    "sunset": ("at sunset", "in a sunset sky", "in front of a sunset"),
    "night": ("at night", "across a night sky", "under the stars", "in a starry night"),
    "grass": ("on grass", "over green grass", "on a lawn", "on a meadow"),
}
CAMERA_WORDS = {
    "static": ("the camera does not move", "static camera"),
    "pan left": ("the camera pans left", "camera panning to the left"),
    "pan right": ("the camera pans right", "camera panning to the right"),
    "zoom in": ("the camera zooms in", "slow zoom in"),
    "zoom out": ("the camera zooms out", "slow zoom out"),
}
STYLE_WORDS = {
    "flat": ("flat style", "flat colors"),
    "outline": ("outline style", "drawn as an outline", "line drawing"),
    "neon": ("neon style", "glowing neon"),
    "pixel": ("pixel art", "pixel style"),
}
RELATION_WORDS = {
    "left of": ("to the left of", "left of"),
    "above": ("above", "over"),
    "behind": ("behind", "partly hidden behind"),
}
WALL_WORDS = (
    "passes behind a wall",
    "passes behind a wall and comes out again",
    "goes behind the wall and reappears",
)
CUT_WORDS = ("cut to", "then cut to", "next shot")
_LONG_OPENINGS = (
    "",
    "",
    "a short clip of ",
    "this video shows ",
    "a simple animation: ",
    "we see ",
)


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _say(rng: np.random.Generator, words: tuple[str, ...], plain: float = 0.5) -> str:
    return words[0] if rng.uniform() < plain else str(rng.choice(words))


def _name(rng: np.random.Generator, thing: Thing) -> str:
    return f"{_say(rng, COLOR_WORDS[thing.color])} {_say(rng, SHAPE_WORDS[thing.shape])}"


def _say_shot(rng: np.random.Generator, shot: Shot, long: bool, moving: bool, name: str) -> str:
    first = shot.things[0]
    # A thing that stays still often goes without saying.
    says_motion = moving and (first.motion != "still" or long or rng.uniform() < 0.5)
    motion = _say(rng, MOTION_WORDS[first.motion]) if says_motion else ""
    if shot.wall:
        side = f" to the {first.motion}" if rng.uniform() < 0.7 or long else ""
        motion = f"{_say(rng, MOTION_WORDS[first.motion][:1])} and {_say(rng, WALL_WORDS)}"
        if not side:
            motion = _say(rng, WALL_WORDS)
    words = [name]
    if motion:
        words.append(motion)
    if shot.relation is not None:
        words.append(
            f"{_say(rng, RELATION_WORDS[shot.relation])} {_article(_name(rng, shot.things[1]))}"
        )
    words.append(_say(rng, BACKGROUND_WORDS[shot.background]))
    text = " ".join(words)
    if moving and (shot.camera != "static" or (long and rng.uniform() < 0.2)):
        text += f", {_say(rng, CAMERA_WORDS[shot.camera])}"
    return text


def caption(facts: Facts, rng: np.random.Generator, *, long: bool, moving: bool = True) -> str:
    """Says the facts in words; two calls seldom choose the same ones.

    Args:
        long: a full sentence or two, rather than the few words a hurried user types.
        moving: False for a single frame, of which motion and camera cannot be told.
    """
    subject = facts.shots[0].things[0]
    name = _name(rng, subject)
    if long:
        # Two shots are long enough without one: the text encoder reads 160 bytes.
        opening = str(rng.choice(_LONG_OPENINGS)) if len(facts.shots) == 1 else ""
        text = opening + _say_shot(
            rng, facts.shots[0], len(facts.shots) == 1, moving, _article(name)
        )
    else:
        bare = rng.uniform() < 0.25
        text = _say_shot(rng, facts.shots[0], long, moving, name if bare else _article(name))
    for shot in facts.shots[1:]:
        text += f". {_say(rng, CUT_WORDS)}: {_say_shot(rng, shot, False, moving, 'the ' + name)}"
    two = len(facts.shots) == 2
    if facts.style != "flat" or (long and not two and rng.uniform() < 0.1):
        text += f", {_say(rng, STYLE_WORDS[facts.style])}"
    if rng.uniform() < 0.3:
        text = text[0].upper() + text[1:]
    return text + ("." if long or rng.uniform() < 0.2 else "")


def vocabulary() -> frozenset[str]:
    """Every word that a caption can contain, in lower case."""
    phrases = [*CUT_WORDS, *WALL_WORDS, *_LONG_OPENINGS, "a an the to and"]
    for table in (
        COLOR_WORDS,
        SHAPE_WORDS,
        MOTION_WORDS,
        BACKGROUND_WORDS,
        CAMERA_WORDS,
        STYLE_WORDS,
        RELATION_WORDS,
    ):
        phrases += [phrase for group in table.values() for phrase in group]
    return frozenset(word.strip(":.,") for phrase in phrases for word in phrase.split()) - {""}


def clip(
    seed: int | Sequence[int],
    *,
    frames: int,
    height: int,
    width: int,
    fps: float = 16.0,
    split: str = "train",
) -> tuple[UInt8[np.ndarray, "T H W 3"], Facts, str, str]:
    """The clip that this seed stands for: frames, facts, a short and a long caption."""
    parts = (seed,) if isinstance(seed, int) else tuple(seed)
    rng = np.random.default_rng((*parts, 0))
    facts = sample_facts(rng, (frames - 1) / fps, split)
    moving = frames > 1
    video = render(facts, (*parts, 1), frames=frames, height=height, width=width, fps=fps)
    short = caption(facts, rng, long=False, moving=moving)
    return video, facts, short, caption(facts, rng, long=True, moving=moving)
