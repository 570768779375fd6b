"""What is seen, followed through time."""

import numpy as np

from vjax.world.oracle.background import UNKNOWN
from vjax.world.oracle.shape import read_shape, spread
from vjax.world.oracle.sight import Sight, name_color

Track = dict[int, Sight]

_ALWAYS = 0.95  # a thing is seen in this share of the frames
_FEW = 0.1  # and what nobody asked for in no more than this


def find_tracks(
    seen: list[list[list[Sight]]], frames: int, wall: bool
) -> tuple[list[list[Track]], np.ndarray]:
    """What is seen, followed through time, and how many things there are in each frame.

    A thing is a list of tracks: several where one took the place of another, as when the colour
    changes on the way.
    """
    tracks: list[Track] = []
    for per_frame in seen:
        counts = [len(sights) for sights in per_frame if sights]
        if not counts:
            continue
        usual = int(np.bincount(counts).argmax())
        begin = next(t for t, sights in enumerate(per_frame) if len(sights) == usual)
        group: list[Track] = [{begin: s} for s in per_frame[begin]]
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
        return [], totals
    usual = int(np.bincount(totals[totals > 0] if wall else totals).argmax())
    things: list[list[Track]] = []
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
    return things[: max(usual, 1)], totals


def count_things(totals: np.ndarray, hidden: np.ndarray) -> int | None:
    """How many things there are throughout; None where some come and go.

    Args:
        totals: how many are seen in each frame, [T].
        hidden: the frames in which the wall may hide one, [T].
    """
    every = range(1, totals.max(initial=0) + 1)
    most = max((n for n in every if (totals >= n).mean() > _FEW), default=0)
    visible = totals[~hidden]
    return most if not len(visible) or (visible >= most).mean() >= _ALWAYS else None


def hidden_frames(sights: Track, frames: int, width: int, half_wall: float) -> np.ndarray:
    """The frames [T] without a sight of a thing that went behind the wall before and came out."""
    hidden, at = np.zeros(frames, bool), sorted(sights)
    for before, after in zip(at[:-1], at[1:], strict=True):
        near = [
            abs(sights[t].x - width / 2) < half_wall + 2 * sights[t].gyration
            for t in (before, after)
        ]
        hidden[before + 1 : after] = all(near)
    return hidden


def track_color(thing: list[Track]) -> str:
    names: dict[str, int] = {}
    for track in thing:
        for sight in track.values():
            name = name_color(sight.value)
            names[name] = names.get(name, 0) + 1
    name = max(names, key=names.__getitem__)
    return name if names[name] >= _ALWAYS * sum(names.values()) else UNKNOWN


def seen_whole(sights: Track, beside_wall: bool = False) -> list[int]:
    """The frames that show a thing whole; beside a wall, less the ones where it is thinner."""
    whole = sorted(t for t, s in sights.items() if s.whole)
    if beside_wall and whole:
        full = np.quantile([sights[t].area for t in whole], 0.8)
        whole = [t for t in whole if sights[t].area > 0.85 * full]
    return whole


def kept_identity(thing: list[Track], width: int) -> bool:
    """Whether a thing went behind the wall in the middle and came out the same."""
    sights = {t: s for track in thing for t, s in track.items()}
    whole = seen_whole(sights, True)
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
        shapes.append(read_shape(spread([sights[t] for t in side], 6)).nearest)
        colors.append(track_color([{t: sights[t] for t in side}]))
        sizes.append(np.median([sights[t].gyration for t in side]))
    same = shapes[0] == shapes[1] and colors[0] == colors[1] != UNKNOWN
    return bool(hidden and same and 0.75 < sizes[1] / sizes[0] < 1.33)
