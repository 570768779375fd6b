"""How a clip is judged: the oracle reads what was made, and seams are looked at."""

import hashlib
import pathlib

import numpy as np

from vjax.evaluation.trials import Trial
from vjax.world import oracle

_FOUR = ("color", "shape", "motion", "background")
# At a seam, a step this much longer than it may be is a jump, in shorter sides, and so is a
# background that changes by this much, in grey levels.
_LONGER, _BRIGHTER = 0.02, 12.0


def version() -> str:
    """Changes with all that decides a score: those of several versions do not mix."""
    here = pathlib.Path(__file__).parent
    sources = [(here / f"{name}.py").read_text() for name in ("judge", "trials", "words")]
    return hashlib.sha256("".join([oracle.version(), *sources]).encode()).hexdigest()[:8]


def judge(trial: Trial, video: np.ndarray, fps: float) -> dict[str, float]:
    """Scores by name, from 0 to 1 for right, over the frames that were made.

    "all facts" is every fact that was asked for, "all four" what a thing and its place are. Where
    frames were given: whether they came back as they were, whether the thing or the background
    jumps at a seam, and how far from its true course the thing is, in widths.
    """
    agrees = oracle.agree(trial.facts, oracle.read(video[trial.made], fps))
    scores: dict[str, float] = {
        "all facts": agrees.pop("all"),
        "all four": all(agrees[key] for key in _FOUR if key in agrees),
        **agrees,
    }
    if trial.seams.any():
        scores["no jump"] = not _jumps(trial, video)
    if trial.given.any():
        given = video[trial.given] == trial.truth[trial.given]
        scores["given frames as given"] = bool(given.all())
    if trial.given.sum() > 1:
        scores["off course"] = _off_course(trial, video)
    return {key: float(value) for key, value in scores.items()}


def _color(trial: Trial) -> str:
    return trial.facts.shots[0].things[0].color


def _jumps(trial: Trial, video: np.ndarray) -> bool:
    """Whether something jumps at a seam, further than the thing moves in the true clip.

    Where the given frames don't say how fast it is, further than it moves elsewhere in this one.
    """
    steps = _steps(trial, video)
    longest = np.nanmax(_steps(trial, trial.truth), initial=0)
    if trial.given.sum() <= 1:
        longest = np.nanmax(steps[~trial.seams], initial=longest)
    before = np.flatnonzero(trial.seams)
    change = np.abs(video[before + 1].astype(np.int16) - video[before]).max(axis=-1)
    same = np.median(change, axis=(1, 2)) <= _BRIGHTER
    near = steps[trial.seams] <= longest + _LONGER * min(video.shape[1:3])
    return not (same.all() and near.all())


def _steps(trial: Trial, video: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.diff(oracle.track(video, _color(trial)), axis=0), axis=1)


def _off_course(trial: Trial, video: np.ndarray) -> float:
    """Mean distance from the true course over the made frames; half a width where it is unseen."""
    width = video.shape[2]
    paths = (oracle.track(clip, _color(trial)) for clip in (video, trial.truth))
    away = np.linalg.norm(np.subtract(*paths), axis=1)[trial.made]
    return float(np.where(np.isnan(away), width / 2, away).mean() / width)
