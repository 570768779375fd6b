"""Draws the facts of a clip: a background, the things on it, a wall in front, the camera's move."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from vjax.world.facts import (
    COLORS,
    GRADIENTS,
    NEON_DIM,
    SPLAT_COLORS,
    WALL_COLOR,
    WALL_WIDTH,
    Facts,
    Shot,
    Thing,
    cut_frame,
)
from vjax.world.paths import Path, camera_path, one_path, pair_paths, place, wall_path
from vjax.world.shapes import REACH, distance


def _draw_thing(
    video: UInt8[np.ndarray, "T H W 3"],
    thing: Thing,
    path: Path,
    style: str,
    hidden: Float[np.ndarray, " W"],
) -> None:
    """Paints one thing onto the frames, with anti-aliased edges, in place.

    `hidden` is the share of each column that something in front covers.
    """
    frames, height, width, _ = video.shape
    scale = min(height, width)
    stroke = 0.032
    reach = REACH[thing.shape] * path.radius.max() + (0.12 if style == "neon" else stroke)
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
    away = distance(thing.shape, turned_x, turned_y)
    away *= unit  # in pixels
    if style in ("outline", "neon"):
        ink = np.clip(0.5 + stroke * scale / 2 - np.abs(away), 0, 1)
    else:
        ink = np.subtract(0.5, away, out=away)
        np.clip(ink, 0, 1, out=ink)
    if style == "neon":
        ink = np.maximum(ink, 0.55 * np.exp(-np.maximum(np.abs(away), 0) / (0.035 * scale)))
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
    top, bottom = (np.asarray(c, np.float32) for c in GRADIENTS[background])
    gradient = (top + down * (bottom - top)).astype(np.float32)
    video = np.repeat(gradient[:, :, None, :], width, axis=2)
    density, sizes = {
        "black": (0, ()),
        "gray": (0, ()),
        "sky": (2.4, ((0.12, 0.22), (0.035, 0.06))),
        "sunset": (3.0, ((0.2, 0.4), (0.015, 0.03))),
        "night": (9.0, ((0.007, 0.011), (0.007, 0.011))),
        "grass": (14.0, ((0.012, 0.02), (0.03, 0.06))),
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
        video += splats[..., None] * np.asarray(SPLAT_COLORS[background], np.float32)
    return video


def _draw_shot(
    rng: np.random.Generator, shot: Shot, style: str, size: tuple[int, int], times: np.ndarray
) -> UInt8[np.ndarray, "T H W 3"]:
    height, width = size
    scale = min(height, width)
    extent = (width / scale, height / scale)
    if shot.wall:
        paths = [wall_path(rng, shot.things[0].motion, extent, times)]
    elif len(shot.things) == 2:
        paths = pair_paths(rng, shot, extent, times)
    elif shot.camera.startswith("zoom"):
        near = (place(rng, 0.1), place(rng, 0.1))
        paths = [one_path(rng, shot.things[0].motion, extent, times, (0.11, 0.15), near)]
    else:
        paths = [one_path(rng, shot.things[0].motion, extent, times)]
    if shot.camera.startswith("pan"):  # start on the side that the thing drifts away from
        sign = 1 if shot.camera == "pan right" else -1
        side = sign * rng.uniform(0.05, 0.8) * (extent[0] / 2 - 1.15 * paths[0].radius.max())
        paths = [dataclasses.replace(paths[0], x=np.full(times.shape, side))]
    offset, zoom = camera_path(rng, shot.camera, paths[0], extent, times)
    background = _draw_background(rng, shot.background, size, offset, zoom)
    if style == "neon":
        background *= NEON_DIM
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
        seen = Path((path.x - offset) * zoom, path.y * zoom, path.radius * zoom, path.angle)
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


def _pixelate(video: UInt8[np.ndarray, "T H W 3"], block: int) -> UInt8[np.ndarray, "T H W 3"]:
    _, height, width, _ = video.shape
    rows, columns = np.arange(0, height, block), np.arange(0, width, block)
    total = np.add.reduceat(video, rows, axis=1, dtype=np.float32)
    total = np.add.reduceat(total, columns, axis=2)
    tall, wide = np.diff(np.append(rows, height)), np.diff(np.append(columns, width))
    mean = (total / (tall[:, None] * wide[None, :])[None, :, :, None] + 0.5).astype(np.uint8)
    return np.repeat(np.repeat(mean, tall, axis=1), wide, axis=2)
