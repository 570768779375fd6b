"""What a model is asked for by the verbs beyond words, and how each answer is judged.

A row's judge reads what its verb is for: whether a film has a step in the middle, meets its start
again, shows in each span what its card says. The same judge reads what words alone make of the same
facts, where they can, which is as much as can be expected of the model.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

import vjax
from vjax import world
from vjax.config import ModelConfig
from vjax.evaluation import judge as judges
from vjax.evaluation.trials import LASTING, SEED, Row, Trial
from vjax.timeline import Timeline
from vjax.world import oracle

_FACTS, _CLIP = 16, 17
SETTLED = 4  # frames after the beginning of a span that are not read: latents hold four
STILL = 0.5  # grey levels: steps between frames that are shorter are no measure of others
NEAR = 0.002  # widths: a fifth of a pixel of 96, which is as far as centroids can be told
LEAST = 0.02  # grey levels: a step
MINUTE = 10  # so many trials of a minute to a hundred of the others


@dataclasses.dataclass(frozen=True, eq=False)
class FilmTrial(Trial):
    """A trial that is judged in its own way; `before` is the clip that it was given."""

    scores: Callable[["FilmTrial", np.ndarray, float], dict[str, float]] = None
    before: UInt8[np.ndarray, "T H W 3"] | None = None


def judge(trial: FilmTrial, video: np.ndarray, fps: float) -> dict[str, float]:
    """Scores by name, from 0 to 1 for right; "all facts" is all that the row is about."""
    found = trial.scores(trial, video, fps)
    return {key: float(value) for key, value in found.items()}


def version() -> str:
    """Changes with all that decides a score."""
    source = pathlib.Path(__file__).read_text()
    return hashlib.sha256((judges.version() + source).encode()).hexdigest()[:8]


# --- Measures ------------------------------------------------------------------------------------


def steps(video: UInt8[np.ndarray, "T H W 3"]) -> np.ndarray:
    """The mean difference from each frame to the next, in grey levels; the last is to the first."""
    following = np.roll(video, -1, axis=0).astype(np.int16)
    return np.abs(following - video).mean(axis=(1, 2, 3))


def is_smooth(video: UInt8[np.ndarray, "T H W 3"]) -> bool:
    """Whether no step is larger than twice the median one."""
    inside = steps(video)[:-1]
    return bool(inside.max() <= 2 * max(np.median(inside), STILL))


def meets(video: UInt8[np.ndarray, "T H W 3"]) -> bool:
    """Whether the step from the last frame to the first is within 1.5 times the median one."""
    *inside, last = steps(video)
    return bool(last <= 1.5 * max(float(np.median(inside)), STILL))


def moves(video: UInt8[np.ndarray, "T H W 3"], facts: world.Facts) -> bool:
    """Whether it moves, where it should; half of the steps at least are steps."""
    still = facts.shots[0].things[0].motion == "still"
    return still or bool(np.median(steps(video)[:-1]) > LEAST)


def off_course(video: np.ndarray, color: str, truth: np.ndarray, true_color: str) -> float:
    """Mean distance of a thing from where it should be, in widths; half of one where unseen."""
    width = video.shape[2]
    away = np.linalg.norm(oracle.track(video, color) - oracle.track(truth, true_color), axis=1)
    return float(np.where(np.isnan(away), width / 2, away).mean() / width)


def drift(first: UInt8[np.ndarray, "T H W 3"], last: UInt8[np.ndarray, "T H W 3"]) -> float:
    """How far the median pixel, which is background, goes in its worst channel, in grey levels."""
    means = (np.median(clip.reshape(-1, 3), axis=0) for clip in (first, last))
    return float(np.abs(np.subtract(*means)).max())


def _agrees(facts: world.Facts, clip: np.ndarray, fps: float, keys: tuple[str, ...]) -> bool:
    found = oracle.agree(facts, oracle.read(clip, fps))
    return all(found[key] for key in keys)


# --- Judges --------------------------------------------------------------------------------------

_LOOKS = ("color", "shape", "background", "count", "cut")


def _bridged(trial, video, fps):
    ends = (video[[0, -1]] == trial.truth[[0, -1]]).all() if trial.given.any() else True
    looks = _agrees(trial.facts, video, fps, _LOOKS)
    smooth = is_smooth(video) and moves(video, trial.facts)
    found = {"ends as given": ends, "smooth": smooth, "looks": looks}
    return {"all facts": all(found.values()), **found}


def _looped(trial, video, fps):
    looks = _agrees(trial.facts, video, fps, _LOOKS)
    closed = meets(video) and moves(video, trial.facts)
    found = {"meets its start": closed, "looks": looks}
    return {"all facts": all(found.values()), **found}


def _interpolated(trial, video, fps):
    made = ~trial.given
    error = np.mean((video[made].astype(np.float64) - trial.truth[made]) ** 2)
    color = trial.facts.shots[0].things[0].color
    away = off_course(video, color, trial.truth, color)
    given = bool((video[trial.given] == trial.truth[trial.given]).all())
    held = off_course(trial.frozen(), color, trial.truth, color)
    between = away <= 0.02 and away <= max(held / 2, NEAR)
    return {
        "all facts": given and between,
        "given frames as given": given,
        "off course": away,
        "dB": 10 * np.log10(255**2 / max(error, 1e-9)),
    }


def _told(trial, video, fps):
    """Of a board: what each span shows, and whether it is the same thing in all."""
    length = len(video) // len(trial.facts.shots)
    cards, subject = [], []
    for number, shot in enumerate(trial.facts.shots):
        clip = video[number * length + (SETTLED if number else 0) : (number + 1) * length]
        found = oracle.agree(world.Facts((shot,)), oracle.read(clip, fps))
        cards.append(found["motion"] and found["background"])
        subject.append(found["color"] and found["shape"] and found["count"])
    kept = all(subject)
    places = {f"card {number + 1}": right for number, right in enumerate(cards)}
    return {"all facts": all(cards) and kept, **places, "subject kept": kept}


def _remixed(trial, video, fps):
    (thing,) = trial.facts.shots[0].things
    before = trial.before
    old = oracle.read(before, fps).shots[0].things
    away = off_course(video, thing.color, before, old[0].color if old else thing.color)
    looks = {
        key: _agrees(trial.facts, video, fps, (key,)) for key in ("color", "shape", "background")
    }
    return {"all facts": all(looks.values()) and away <= 0.06, **looks, "off course": away}


def _lasting(trial, video, fps):
    length = round(2 * fps)
    first, last = video[:length], video[-length:]
    begins = _agrees(trial.facts, first, fps, ("color", "shape", "background"))
    ends = _agrees(trial.facts, last, fps, ("color", "shape", "background"))
    far = drift(first, last)
    return {
        "all facts": begins and ends and far <= 3,
        "as asked at the start": begins,
        "as asked at the end": ends,
        "colours within 3 levels": far <= 3,
    }


# --- Rows ----------------------------------------------------------------------------------------


def rows(model: ModelConfig) -> list[Row]:
    """All rows of verbs for a model of clips, those of words alone beside them."""
    length, fps = model.frames, model.fps
    seconds = (length - 1) // 2 / fps  # of a card: three fit into two windows
    draw = functools.partial(world.render, height=model.height, width=model.width, fps=fps)
    ratio = model.vae.temporal_ratio
    ring = ratio * (length // ratio)

    def bridge(clip, caption) -> Timeline:
        return vjax.bridge(clip[0], clip[-1], caption, frames=len(clip))

    def words(clip, caption) -> Timeline:
        return vjax.text(caption, frames=len(clip))

    def there_and_back(facts, seed) -> np.ndarray:
        half = draw(facts, seed, frames=ring // 2 + 1)
        return np.concatenate([half, half[-2:0:-1]])

    def loop(clip, caption) -> Timeline:
        return vjax.loop(caption, frames=len(clip))

    def more(clip, caption) -> Timeline:
        return vjax.interpolate(clip[::2], caption, fps=fps, fps_in=fps / 2)

    def clips(frames: int):
        return lambda facts, seed: draw(facts, seed, frames=frames)

    ends, half = np.zeros(length, bool), np.zeros(length + 1, bool)
    ends[[0, -1]], half[::2] = True, True
    of_one = functools.partial(_row, sample=_one)
    return [
        of_one("bridge", bridge, clips(length), _bridged, given=ends),
        of_one("bridge, words alone", words, clips(length), _bridged),
        of_one("loop", loop, there_and_back, _looped),
        of_one("loop, words alone", words, there_and_back, _looped),
        of_one("interpolate", more, clips(length + 1), _interpolated, given=half),
        _board_row("storyboard", model, seconds, cuts=False),
        _board_row("storyboard with cuts", model, seconds, cuts=True),
        _remix_row(model, draw),
        _row(
            "a minute",
            words,
            clips(round(60 * fps) + 1),
            _lasting,
            sample=functools.partial(_one, motions=LASTING),
            share=MINUTE / 100,
        ),
    ]


def _one(rng, index: int, motions=world.MOTIONS) -> world.Facts:
    thing = world.sample_thing(rng, (motions[index % len(motions)],))
    return world.Facts((world.Shot((thing,), str(rng.choice(world.BACKGROUNDS))),))


def _row(name: str, ask, draw, scores, *, sample, given=None, share: float = 1) -> Row:
    def trial(index: int) -> Trial:
        rng = np.random.default_rng((_FACTS, SEED, index))
        facts = sample(rng, index)
        caption = world.caption(facts, rng, long=index // 10 % 2 == 1)
        clip = functools.cache(functools.partial(draw, facts, (_CLIP, SEED, index)))
        known = np.zeros(len(clip()), bool) if given is None else given
        nowhere = np.zeros(len(known) - 1, bool)
        return FilmTrial(index, ask(clip(), caption), facts, known, nowhere, clip, scores)

    return Row(name, trial, share)


def _board_row(name: str, model: ModelConfig, seconds: float, cuts: bool) -> Row:
    """Three cards of one thing that moves otherwise in each; with cuts, each in another place."""
    each = round(seconds * model.fps)

    def trial(index: int) -> Trial:
        rng = np.random.default_rng((_FACTS, SEED, index, 3))
        thing = world.sample_thing(rng, ("still",))
        places = rng.choice(world.BACKGROUNDS, 3, replace=False)
        motions = rng.choice(("left", "right", "up", "down", "grows", "shrinks"), 3, replace=False)
        shots = tuple(
            world.Shot((dataclasses.replace(thing, motion=str(motion)),), str(place))
            for motion, place in zip(motions, places if cuts else places[[0, 0, 0]], strict=True)
        )
        texts = [world.caption(world.Facts((shot,)), rng, long=False) for shot in shots]
        cards = [
            {"at": number * seconds, "text": text, "cut": cuts and number > 0}
            for number, text in enumerate(texts)
        ]
        timeline = vjax.storyboard(cards, frames=3 * each)

        def draw() -> np.ndarray:
            clips = [
                world.render(
                    world.Facts((shot,)),
                    (_CLIP, SEED, index, number),
                    frames=each,
                    height=model.height,
                    width=model.width,
                    fps=model.fps,
                )
                for number, shot in enumerate(shots)
            ]
            return np.concatenate(clips)

        nothing = np.zeros(3 * each, bool)
        return FilmTrial(index, timeline, world.Facts(shots), nothing, nothing[:-1], draw, _told)

    return Row(name, trial, 1)


def _remix_row(model: ModelConfig, draw) -> Row:
    """A true clip whose thing shall have another colour."""

    def trial(index: int) -> Trial:
        rng = np.random.default_rng((_FACTS, SEED, index, 4))
        facts = _one(rng, index)
        (shot,) = facts.shots
        (thing,) = shot.things
        while True:
            color = str(rng.choice(list(world.COLORS)))
            other = dataclasses.replace(thing, color=color)
            if color != thing.color and not world.is_held_out(other.shape, color, other.motion):
                break
        changed = world.Facts((dataclasses.replace(shot, things=(other,)),))
        prompt = world.caption(changed, np.random.default_rng(index), long=False)
        seed = (_CLIP, SEED, index, 4)
        clip = draw(facts, seed, frames=model.frames)
        timeline = vjax.remix(clip, prompt)
        nothing = np.zeros(model.frames, bool)
        truth = functools.partial(draw, changed, seed, frames=model.frames)
        return FilmTrial(
            index, timeline, changed, nothing, nothing[:-1], truth, _remixed, before=clip
        )

    return Row("remix", trial, 1)
