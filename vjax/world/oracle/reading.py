"""Reads what a clip shows, shot by shot, from its pixels alone."""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8

from vjax.world import facts
from vjax.world.oracle.background import has_wall, read_background
from vjax.world.oracle.camera import Camera, read_camera
from vjax.world.oracle.cuts import find_cuts
from vjax.world.oracle.motion import Course, read_motion, turns
from vjax.world.oracle.overlap import read_overlap
from vjax.world.oracle.shape import SYMMETRY, Shape, read_shape, spread
from vjax.world.oracle.sight import UNKNOWN, see
from vjax.world.oracle.tracks import (
    Track,
    count_things,
    find_tracks,
    hidden_frames,
    kept_identity,
    seen_whole,
    track_color,
)

_MIXED = 2  # frames on each side of a cut that may mix two shots


@dataclasses.dataclass(frozen=True)
class ThingReading:
    """What one thing of a shot is and does.

    `centroid` [T, 2] (x, y) and `radius` [T] are in pixels, NaN where the thing is not visible.
    `course` is over the frames that show it whole. `fit` is how well the named shape (or the
    nearest one, where it is unknown) matches, 0 to 1.
    """

    shape: str
    color: str
    motion: str
    centroid: np.ndarray
    radius: np.ndarray
    course: Course
    fit: float


@dataclasses.dataclass(frozen=True)
class ShotReading:
    """What the frames from `start` up to `stop` show, without the few beside a cut.

    `count` is how many things there are throughout, None where some come and go. Two things are
    ordered such that `relation` is that of the first to the second. `permanence`
    is None without a wall, else whether one thing went behind it and came out the same.
    """

    start: int
    stop: int
    things: tuple[ThingReading, ...]
    count: int | None
    background: str
    relation: str | None
    camera: str
    wall: bool
    permanence: bool | None
    style: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """All that was read from a clip. `cuts` are the first frames of the shots after the first."""

    shots: tuple[ShotReading, ...]
    cuts: tuple[int, ...]
    style: str
    frames: int


def _read_thing(
    thing: list[Track],
    camera: Camera,
    size: tuple[int, int],
    fps: float,
    shape: Shape | None,
    wall: bool,
    hidden: np.ndarray,
) -> tuple[ThingReading, Shape]:
    """`shape` is given where it was read already. `wall`: whether there is one.

    `hidden` [T] are the frames in which it hides a thing.
    """
    frames, scale = len(camera.zoom), min(size)
    sights: Track = {t: s for track in reversed(thing) for t, s in track.items()}
    whole = seen_whole(sights, wall) or sorted(sights)
    if shape is None:
        shape = read_shape(spread([sights[t] for t in whole], 9))
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
    order = SYMMETRY.get(shape.name)
    turn = turns([sights[t] for t in whole], order) if order else None
    course = Course(times, x, y, grown, turn)
    motion = read_motion(course)
    if len(sights) < 0.95 * (frames - hidden.sum()):  # what comes and goes makes no motion
        motion = UNKNOWN
    color = track_color(thing)
    return ThingReading(shape.name, color, motion, centroid, radius, course, shape.fit), shape


def _relate(first: ThingReading, second: ThingReading) -> tuple[str, bool]:
    """How two things that do not overlap lie, and whether their order has to be turned.

    They lie side by side in the direction in which they are apart throughout.
    """
    apart = second.centroid - first.centroid
    side = np.sign(np.nanmedian(apart, axis=0))
    across, along = np.nanquantile(apart * side, 0.1, axis=0)
    name, axis = ("left of", 0) if across > along else ("above", 1)
    return (name if max(across, along) > 0 else UNKNOWN), bool(side[axis] < 0)


def _read_shot(video: np.ndarray, start: int, fps: float, pixels: bool) -> ShotReading:
    """`pixels`: it is pixel art."""
    frames, height, width, _ = video.shape
    scale = min(height, width)
    walled = has_wall(video)
    strip = np.abs(np.arange(width) + 0.5 - width / 2) < facts.WALL_WIDTH / 2 * scale
    wall = strip & walled
    background = read_background(video, wall)
    seen, out, glows = see(video, background, wall)
    things, totals = find_tracks(seen, frames, walled)
    hidden = np.zeros(frames, bool)
    if walled and things:
        sights = {t: s for track in things[0] for t, s in track.items()}
        hidden = hidden_frames(sights, frames, width, facts.WALL_WIDTH / 2 * scale)
    count = count_things(totals, hidden)
    if background.name in ("black", "gray") or walled:
        camera = Camera("static", np.zeros(frames), np.ones(frames))
    else:
        camera = read_camera(video, out, wall, fps, 0.06 * glows)
    shapes: list[Shape | None] = [None] * len(things)
    relation = None
    if len(things) == 2:
        overlap = read_overlap(things, scale)
        if overlap is not None:
            things, shapes = overlap
            relation = "behind"
    readings, found = [], []
    for thing, shape in zip(things, shapes, strict=True):
        reading, shape = _read_thing(thing, camera, (height, width), fps, shape, walled, hidden)
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
        wall=walled,
        permanence=(
            bool(count == 1 and readings and readings[0].shape != UNKNOWN)
            and kept_identity(things[0], width)
            if walled
            else None
        ),
        style=style,
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
        if stop - start > 4 * _MIXED:
            start += _MIXED * (start > 0)
            stop -= _MIXED * (stop < len(video))
        shot = _read_shot(small[start:stop], start, fps, side > 1)
        if side > 1:
            things = tuple(
                dataclasses.replace(t, centroid=t.centroid * side, radius=t.radius * side)
                for t in shot.things
            )
            shot = dataclasses.replace(shot, things=things)
        shots.append(shot)
    return Reading(tuple(shots), cuts, shots[0].style, len(video))


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
        wall = (strip < facts.WALL_WIDTH / 2 * min(height, width)) & has_wall(shot)
        seen, _, _ = see(shot, read_background(shot, wall), wall)
        things, _ = find_tracks(seen, len(shot), bool(wall.any()))
        if thing_color is not None:
            things = [thing for thing in things if track_color(thing) == thing_color]
        for piece in things[0] if things else []:
            for t, sight in piece.items():
                centroids[start + t] = sight.x, sight.y
    return centroids
