"""How the films that verbs make are judged: one judge for each thing that a verb is for.

A judge gives scores by name, from 0 to 1 for right; "all facts" is all that its row is about.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, UInt8

from vjax import world
from vjax.evaluation import judge as judges
from vjax.evaluation import measures
from vjax.evaluation.trials import Trial
from vjax.world import oracle

SETTLED = 4  # frames after the beginning of a span that are not read: latents hold four
NEAR = 0.002  # widths: a fifth of a pixel of 96, which is as far as centroids can be told
ON_COURSE, IN_PLACE = 0.02, 0.06  # widths: what leads between frames, and what is changed in place
FADED = 3  # grey levels, of a background
LOOKED_AT = 5  # stretches of a minute, of two seconds each
ENDS = 5  # frames at an end of a mix, in which it is hardly one yet


@dataclasses.dataclass(frozen=True, eq=False)
class FilmTrial(Trial):
    """A trial that is judged in its own way.

    `before` is the clip that it was given where that is not its truth, and `kept` are the pixels of
    it that come back.
    """

    scores: Callable[["FilmTrial", np.ndarray, float], dict[str, float]] = None
    before: UInt8[np.ndarray, "T h w 3"] | None = None
    kept: Bool[np.ndarray, "T H W"] | None = None

    def restored(self, video: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
        video = super().restored(video)
        if self.kept is not None:
            video[self.kept] = self.truth[self.kept]
        return video


def judge(trial: FilmTrial, video: np.ndarray, fps: float) -> dict[str, float]:
    """Scores by name, from 0 to 1 for right; "all facts" is all that the row is about."""
    found = trial.scores(trial, video, fps)
    return {key: float(value) for key, value in found.items()}


def version() -> str:
    """Changes with all that decides a score."""
    here = pathlib.Path(__file__).parent
    sources = [(here / f"{name}.py").read_text() for name in ("films", "measures", "verbs")]
    return hashlib.sha256("".join([judges.version(), *sources]).encode()).hexdigest()[:8]


_IDENTITY = ("color", "shape", "count")
_LOOKS = (*_IDENTITY, "background", "cut")


def _agrees(facts: world.Facts, clip: np.ndarray, fps: float, keys: tuple[str, ...]) -> bool:
    found = oracle.agree(facts, oracle.read(clip, fps))
    return all(found[key] for key in keys)


def _all(found: dict[str, bool], **measured: float) -> dict[str, float]:
    return {"all facts": all(found.values()), **found, **measured}


def _as_given(trial: Trial, video: np.ndarray) -> bool:
    return bool((video[trial.given] == trial.truth[trial.given]).all())


def said(trial, video, fps):
    """What words alone come to: what the rows beside can be expected to reach."""
    found = oracle.agree(trial.facts, oracle.read(video, fps))
    moves = measures.moves(video, trial.facts)
    return _all(
        {
            "smooth": measures.is_smooth(video) and moves,
            "looks": all(found[key] for key in _LOOKS),
        },
        **{
            "looks and moves": all(found[key] for key in _LOOKS) and moves,
            "color, shape, background": all(found[key] for key in ("color", "shape", "background")),
            "motion": found["motion"],
        },
    )


def bridged(trial, video, fps):
    """Frames that are given lead into each other."""
    return _all(
        {
            "given frames as given": _as_given(trial, video),
            "smooth": measures.is_smooth(video) and measures.moves(video, trial.facts),
            "looks": _agrees(trial.facts, video, fps, _LOOKS),
        }
    )


def mixed(trial, video, fps):
    """It begins as one thing and ends as another, which `facts` are, and leads there."""
    first, last = (world.Facts((shot,)) for shot in trial.facts.shots)
    return _all(
        {
            "given frames as given": _as_given(trial, video),
            "smooth": measures.is_smooth(video) and measures.moves(video, first),
            "begins as the first": _agrees(first, video[:ENDS], fps, _LOOKS),
            "ends as the second": _agrees(last, video[-ENDS:], fps, _LOOKS),
        }
    )


def looped(trial, video, fps):
    """Its end meets its start."""
    return _all(
        {
            "meets its start": measures.meets(video) and measures.moves(video, trial.facts),
            "looks": _agrees(trial.facts, video, fps, _LOOKS),
        }
    )


def _off_course(trial: Trial, video: np.ndarray) -> float:
    color = trial.facts.shots[0].things[0].color
    return measures.off_course(video, color, trial.truth, color)


def interpolated(trial, video, fps):
    """Between given frames things are where they should be, much nearer than in the next one."""
    made = ~trial.given
    away, held = _off_course(trial, video), _off_course(trial, trial.frozen())
    on_course = away <= ON_COURSE and away <= max(held / 2, NEAR)
    found = {
        "given frames as given": _as_given(trial, video),
        "looks": _agrees(trial.facts, video, fps, _LOOKS),
        "on course": on_course,
    }
    decibels = measures.decibels(video[made], trial.truth[made])
    return _all(found, **{"off course": away, "dB": decibels})


def enlarged(trial, video, fps):
    """The same in a larger size."""
    from vjax.video import fit

    away = _off_course(trial, video)
    found = {
        "looks": _agrees(trial.facts, video, fps, _LOOKS),
        "on course": away <= ON_COURSE and measures.moves(video, trial.facts),
    }
    scaled = fit(trial.before, *video.shape[2:0:-1])
    return _all(
        found,
        **{
            "off course": away,
            "dB": measures.decibels(video, trial.truth),
            "dB of scaled pixels": measures.decibels(scaled, trial.truth),
        },
    )


def told(trial, video, fps):
    """Of a board: what each span shows, and whether it is the same thing in all."""
    length = len(video) // len(trial.facts.shots)
    cards, subject = [], []
    for number, shot in enumerate(trial.facts.shots):
        clip = video[number * length + (SETTLED if number else 0) : (number + 1) * length]
        found = oracle.agree(world.Facts((shot,)), oracle.read(clip, fps))
        cards.append(found["motion"] and found["background"])
        subject.append(all(found[key] for key in _IDENTITY))
    places = {f"card {number + 1}": right for number, right in enumerate(cards)}
    return _all({**places, "subject kept": all(subject)})


def remixed(trial, video, fps):
    """What is named changes, in place."""
    (thing,) = trial.facts.shots[0].things
    old = oracle.read(trial.before, fps).shots[0].things
    color = old[0].color if old else thing.color
    away = measures.off_course(video, thing.color, trial.before, color)
    found = oracle.agree(trial.facts, oracle.read(video, fps))
    looks = {key: found[key] for key in ("color", "shape", "background")}
    return _all({**looks, "in place": away <= IN_PLACE}, **{"off course": away})


def inpainted(trial, video, fps):
    """What is named is there, and what lies outside of the mask is as it was."""
    same = (video[trial.kept] == trial.truth[trial.kept]).all()
    found = oracle.agree(trial.facts, oracle.read(video, fps))
    looks = {key: found[key] for key in _LOOKS}
    moves = measures.moves(video, trial.facts)
    return _all({"kept pixels as given": bool(same), **looks, "moves": moves})


def portrayed(trial, video, fps):
    """The thing of a reference in scenes of their own."""
    found = oracle.agree(trial.facts, oracle.read(video, fps))
    looks = {key: found[key] for key in _LOOKS}
    same = {"color and shape": found["color"] and found["shape"]}
    return _all({**looks, "moves": measures.moves(video, trial.facts)}, **same)


def lasting(trial, video, fps):
    """The end is as the start, and so is what lies between them; it moves from start to end."""
    length = round(2 * fps)
    starts = np.linspace(0, len(video) - length, LOOKED_AT).astype(int)
    first, *inside, last = (video[start : start + length] for start in starts)
    keys = ("color", "shape", "background")
    begins, *between, ends = (
        _agrees(trial.facts, part, fps, keys) for part in (first, *inside, last)
    )
    return _all(
        {
            "as asked at the start": begins,
            "as asked at the end": ends,
            "as asked between": all(between),
            "moves": all(measures.moves(part, trial.facts) for part in (first, *inside, last)),
            f"colours within {FADED} levels": measures.drift(first, last) <= FADED,
        }
    )
