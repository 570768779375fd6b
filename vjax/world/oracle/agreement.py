"""Compares what was read from a clip with what was asked for."""

from vjax.world.facts import Facts, Shot, cut_frame
from vjax.world.oracle.reading import Reading, ShotReading, ThingReading

_LATE = 2  # a cut may be so many frames early or late


def agree(facts: Facts, reading: Reading) -> dict[str, bool]:
    """Which of the facts the reading bears out, and "all" for all of them.

    Keys are "color", "shape", "motion", "background", "count", "wall", "camera", "style" and "cut",
    then "relation" and "permanence" where the facts have them. With two things or two shots a key
    is true only if it is right in each, and a clip with cuts that nobody asked for has to be right
    on both sides of them. A single frame has no motion, camera or permanence.
    """
    expected = [(0, reading.frames)]
    if len(facts.shots) == 2:
        cut = cut_frame(reading.frames)
        expected = [(0, cut), (cut, reading.frames)]
        found = len(reading.cuts) == 1 and abs(reading.cuts[0] - cut) <= _LATE
    else:
        found = not reading.cuts
    result = {"cut": found, "style": facts.style == reading.style}
    for shot, (start, stop) in zip(facts.shots, expected, strict=True):
        inside = [s for s in reading.shots if min(s.stop, stop) - max(s.start, start) > _LATE]
        for seen in inside or reading.shots:
            for key, value in _agree_shot(shot, seen, reading.frames > 1).items():
                result[key] = result.get(key, True) and value
    return result | {"all": all(result.values())}


def _agree_shot(shot: Shot, seen: ShotReading, moving: bool) -> dict[str, bool]:
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
    result["wall"] = seen.wall == shot.wall
    if shot.relation is not None:
        result["relation"] = seen.relation == shot.relation and order is orders[0]
    if moving:
        result["camera"] = seen.camera == shot.camera
        if shot.wall:
            result["permanence"] = seen.permanence is True
    return result
