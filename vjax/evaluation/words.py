"""Where things go by each motion word: it shows what a model learns long before rows do."""

from collections.abc import Iterable

import numpy as np

from vjax import world
from vjax.evaluation.trials import Trial
from vjax.world import oracle

COLUMNS = ("right", "down", "way", "growth", "turn")


def course(video: np.ndarray, fps: float) -> dict[str, float]:
    """Of the largest thing: how far it ends from where it began, to the right and down, and its
    whole way, in shorter sides; how much it grew, as a share of its first size; how far it turned,
    in rounds without their sign. Empty where nothing is seen.
    """
    things = [thing for shot in oracle.read(video, fps).shots for thing in shot.things]
    if not things:
        return {}
    seen = max(things, key=lambda thing: np.isfinite(thing.radius).sum()).course
    turn = 0.0 if seen.turn is None else abs(float(seen.turn[-1] - seen.turn[0]))
    return {
        "right": float(seen.x[-1] - seen.x[0]),
        "down": float(seen.y[-1] - seen.y[0]),
        "way": float(np.hypot(np.diff(seen.x), np.diff(seen.y)).sum()),
        "growth": float(seen.size[-1] / seen.size[0] - 1),
        "turn": turn / (2 * np.pi),
    }


def by_word(courses: Iterable[tuple[Trial, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean courses of clips of one thing, by the motion that was asked for."""
    found: dict[str, list[dict[str, float]]] = {motion: [] for motion in world.MOTIONS}
    for trial, each in courses:
        if each:
            found[trial.facts.shots[0].things[0].motion].append(each)
    return {
        motion: {key: float(np.mean([each[key] for each in every])) for key in COLUMNS}
        for motion, every in found.items()
        if every
    }
