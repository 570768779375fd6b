"""What a model is asked for by the verbs beyond words: rows of trials, each with its judge.

A row's judge reads what its verb is for: whether a film has a step in the middle, meets its start
again, shows in each span what its card says. What words alone make of the same facts stands beside
it where they can, which is as much as can be expected of the model: the rows of "words alone" serve
all that ask for the same, since their facts, captions and seeds are the same.
"""

import dataclasses
import functools

import numpy as np

import vjax
from vjax import world
from vjax.config import ModelConfig
from vjax.evaluation import films
from vjax.evaluation.films import FilmTrial
from vjax.evaluation.trials import LASTING, SEED, Row
from vjax.timeline import Timeline
from vjax.world.captions import BACKGROUND_WORDS, MOTION_WORDS

_FACTS, _CLIP = 16, 17
MINUTE = 10  # so many trials of a minute to a hundred of the others
SMALL = 1.5  # so many times smaller is what is enlarged
BESIDE = 4  # pixels around a thing that are painted anew with it
GOES = ("left", "right", "up", "down", "grows", "shrinks")


def rows(model: ModelConfig) -> list[Row]:
    """All rows of verbs for a model of clips, those of words alone beside them."""
    length, fps = model.frames, model.fps
    seconds = (length - 1) // 2 / fps  # of a card: three fit into two windows
    draw = functools.partial(world.render, height=model.height, width=model.width, fps=fps)
    ratio = model.vae.temporal_ratio
    ring = ratio * (length // ratio)
    part = 1 + ratio * ((length - 1) // ratio // 4)  # of a clip, that a bridge leads from or to

    def words(clip, caption) -> Timeline:
        return vjax.text(caption, frames=len(clip))

    def bridge(clip, caption) -> Timeline:
        return vjax.bridge(clip[0], clip[-1], caption, frames=len(clip))

    def blend(clip, caption) -> Timeline:
        gap = (len(clip) - 2 * part) / fps
        return vjax.blend(clip[:part], clip[-part:], caption, seconds=gap)

    def pictures(clip, caption) -> Timeline:
        cards = [{"at": n / fps, "image": clip[n]} for n in np.flatnonzero(shown)]
        return vjax.storyboard([{"at": 0, "text": caption}, *cards], frames=len(clip))

    def there_and_back(facts, seed) -> np.ndarray:
        half = draw(facts, seed, frames=ring // 2 + 1)
        return np.concatenate([half, half[-2:0:-1]])

    def loop(clip, caption) -> Timeline:
        return vjax.loop(caption, frames=len(clip))

    def more(clip, caption) -> Timeline:
        return vjax.interpolate(clip[::2], caption, fps=fps, fps_in=fps / 2)

    def clips(frames: int):
        return lambda facts, seed: draw(facts, seed, frames=frames)

    at = np.arange(length)
    ends, parts = (at == 0) | (at == length - 1), (at < part) | (at >= length - part)
    shown = at % ((length - 1) // 2) == 0
    half = np.arange(length + 1) % 2 == 0
    of_one = functools.partial(_row, sample=_one)
    return [
        _board_row("a card, words alone", model, seconds, count=1),
        of_one("words alone", words, clips(length), films.said),
        _shots_row("two shots, words alone", model, draw, named=True),
        of_one("bridge", bridge, clips(length), films.bridged, given=ends),
        of_one("blend", blend, clips(length), films.bridged, given=parts),
        _mix_row(model, draw),
        of_one("image cards", pictures, clips(length), films.bridged, given=shown),
        of_one("loop", loop, there_and_back, films.looped),
        _inpaint_row(model, draw),
        _remix_row(model, draw),
        _character_row(model, draw),
        _shots_row("characters in two shots", model, draw, named=False),
        _upscale_row(model, draw),
        _board_row("storyboard", model, seconds),
        _board_row("storyboard with cuts", model, seconds, cuts=True),
        of_one("interpolate", more, clips(length + 1), films.interpolated, given=half),
        _row(
            "a minute",
            words,
            clips(round(60 * fps) + 1),
            films.lasting,
            sample=functools.partial(_one, motions=LASTING),
            share=MINUTE / 100,
        ),
    ]


def _one(rng, index: int, motions=world.MOTIONS) -> world.Facts:
    thing = world.sample_thing(rng, (motions[index % len(motions)],))
    return world.Facts((world.Shot((thing,), str(rng.choice(world.BACKGROUNDS))),))


def _of_one(index: int):
    """The facts of a trial of one thing, and what its caption goes on to be drawn from."""
    rng = np.random.default_rng((_FACTS, SEED, index))
    return _one(rng, index), rng


def _row(name: str, ask, draw, scores, *, sample, given=None, share: float = 1) -> Row:
    def trial(index: int) -> FilmTrial:
        rng = np.random.default_rng((_FACTS, SEED, index))
        facts = sample(rng, index)
        caption = world.caption(facts, rng, long=index // 10 % 2 == 1)
        clip = functools.cache(functools.partial(draw, facts, (_CLIP, SEED, index)))
        known = np.zeros(len(clip()), bool) if given is None else given
        return _trial(index, ask(clip(), caption), facts, clip, scores, known=known)

    return Row(name, trial, share)


def _trial(index, timeline, facts, draw, scores, *, known: np.ndarray, **more) -> FilmTrial:
    nowhere = np.zeros(len(known) - 1, bool)
    return FilmTrial(index, timeline, facts, known, nowhere, draw, scores, **more)


def _recolored(rng, facts: world.Facts) -> world.Facts:
    """The same in another colour, of the pairs that training shows."""
    (shot,) = facts.shots
    (thing,) = shot.things
    while True:
        color = str(rng.choice(list(world.COLORS)))
        if color != thing.color and not world.is_held_out(thing.shape, color, thing.motion):
            other = dataclasses.replace(thing, color=color)
            return world.Facts((dataclasses.replace(shot, things=(other,)),))


def _board_row(
    name: str, model: ModelConfig, seconds: float, *, count: int = 3, cuts: bool = False
) -> Row:
    """Cards of one thing that moves otherwise in each; with cuts, each in another place.

    The first alone is words alone, and a frame longer.
    """
    each = round(seconds * model.fps)
    frames = count * each + (count == 1)

    def trial(index: int) -> FilmTrial:
        rng = np.random.default_rng((_FACTS, SEED, index, 3))
        thing = world.sample_thing(rng, ("still",))
        places = rng.choice(world.BACKGROUNDS, 3, replace=False)
        motions = rng.choice(GOES, 3, replace=False)
        shots = tuple(
            world.Shot((dataclasses.replace(thing, motion=str(motion)),), str(place))
            for motion, place in zip(motions, places if cuts else places[[0, 0, 0]], strict=True)
        )[:count]
        texts = [world.caption(world.Facts((shot,)), rng, long=False) for shot in shots]
        cards = [
            {"at": number * seconds, "text": text, "cut": cuts and number > 0}
            for number, text in enumerate(texts)
        ]

        def draw() -> np.ndarray:
            clips = [
                world.render(
                    world.Facts((shot,)),
                    (_CLIP, SEED, index, number),
                    frames=frames // count,
                    height=model.height,
                    width=model.width,
                    fps=model.fps,
                )
                for number, shot in enumerate(shots)
            ]
            return np.concatenate(clips)

        if count == 1:
            timeline = vjax.text(texts[0], frames=frames)
        else:
            timeline = vjax.storyboard(cards, frames=frames)
        known = np.zeros(frames, bool)
        return _trial(index, timeline, world.Facts(shots), draw, films.told, known=known)

    return Row(name, trial, 1)


def _mix_row(model: ModelConfig, draw) -> Row:
    """Two true clips of one thing, which has another colour in the second, mixed under a curve."""

    def trial(index: int) -> FilmTrial:
        facts, rng = _of_one(index)
        other = _recolored(rng, facts)
        first, second = (
            draw(each, (_CLIP, SEED, index), frames=model.frames) for each in (facts, other)
        )
        prompt = world.caption(other, rng, long=False)
        timeline = vjax.blend(first, second, prompt, curve="ease")
        (piece,) = timeline.pieces
        both = world.Facts((*facts.shots, *other.shots))
        known = np.all(piece.strength[:] >= 1, axis=(1, 2, 3))
        draw_mixed = functools.partial(np.copy, piece.pixels)
        return _trial(index, timeline, both, draw_mixed, films.mixed, known=known)

    return Row("blend under a curve", trial, 1)


def _inpaint_row(model: ModelConfig, draw) -> Row:
    """A true clip, in which the thing and what it passes over are painted anew."""

    def trial(index: int) -> FilmTrial:
        facts, rng = _of_one(index)
        changed = _recolored(rng, facts)
        before, after = (
            draw(each, (_CLIP, SEED, index), frames=model.frames) for each in (facts, changed)
        )
        rows, columns = np.nonzero((before != after).any(axis=(0, 3)))
        mask = np.zeros((model.height, model.width), bool)
        top, left = (max(at.min() - BESIDE, 0) for at in (rows, columns))
        mask[top : rows.max() + 1 + BESIDE, left : columns.max() + 1 + BESIDE] = True
        prompt = world.caption(changed, rng, long=False)
        return _trial(
            index,
            vjax.inpaint(before, prompt, mask=mask),
            changed,
            lambda: after,
            films.inpainted,
            known=np.zeros(model.frames, bool),
            before=before,
            kept=np.broadcast_to(~mask, before.shape[:3]),
        )

    return Row("inpaint", trial, 1)


def _remix_row(model: ModelConfig, draw) -> Row:
    """A true clip whose thing shall have another colour, and says what it shows as files do."""

    def trial(index: int) -> FilmTrial:
        rng = np.random.default_rng((_FACTS, SEED, index, 4))
        facts = _one(rng, index)
        changed = _recolored(rng, facts)
        shown, prompt = (
            world.caption(each, np.random.default_rng(index), long=False)
            for each in (facts, changed)
        )
        seed = (_CLIP, SEED, index, 4)
        before, after = (draw(each, seed, frames=model.frames) for each in (facts, changed))
        timeline = vjax.remix(before, prompt, source_prompt=shown)
        known = np.zeros(model.frames, bool)
        return _trial(
            index, timeline, changed, lambda: after, films.remixed, known=known, before=before
        )

    return Row("remix", trial, 1)


def _upscale_row(model: ModelConfig, draw) -> Row:
    """A true clip that was drawn smaller."""
    small = {"height": round(model.height / SMALL), "width": round(model.width / SMALL)}

    def trial(index: int) -> FilmTrial:
        facts, rng = _of_one(index)
        seed, caption = (_CLIP, SEED, index), world.caption(facts, rng, long=False)
        before = draw(facts, seed, frames=model.frames, **small)
        timeline = vjax.upscale(before, caption, size=(model.width, model.height))
        truth = functools.partial(draw, facts, seed, frames=model.frames)
        known = np.zeros(model.frames, bool)
        return _trial(index, timeline, facts, truth, films.enlarged, known=known, before=before)

    return Row("upscale", trial, 1)


def _picture_of(thing: world.Thing, elsewhere: tuple[str, ...], draw, rng, index: int):
    """A picture of a thing in a place that is none of the scenes."""
    place = str(rng.choice([each for each in world.BACKGROUNDS if each not in elsewhere]))
    facts = world.Facts((world.Shot((dataclasses.replace(thing, motion="still"),), place),))
    return draw(facts, (_CLIP, SEED, index, 5), frames=1)[0]


def _unnamed(shot: world.Shot) -> str:
    """What happens and where, but not to what: that is for the reference to say."""
    return f"{MOTION_WORDS[shot.things[0].motion][0]} {BACKGROUND_WORDS[shot.background][0]}"


def _character_row(model: ModelConfig, draw) -> Row:
    """A thing that only a reference shows, in a new scene."""

    def trial(index: int) -> FilmTrial:
        facts, rng = _of_one(index)
        (shot,) = facts.shots
        picture = _picture_of(shot.things[0], (shot.background,), draw, rng, index)
        timeline = vjax.text(_unnamed(shot), frames=model.frames, character=[picture])
        truth = functools.partial(draw, facts, (_CLIP, SEED, index), frames=model.frames)
        known = np.zeros(model.frames, bool)
        return _trial(index, timeline, facts, truth, films.portrayed, known=known)

    return Row("characters", trial, 1)


def _shots_row(name: str, model: ModelConfig, draw, *, named: bool) -> Row:
    """Two shots of a thing, which the prompt names in both, or only a reference shows."""

    def trial(index: int) -> FilmTrial:
        rng = np.random.default_rng((_FACTS, SEED, index, 5))
        thing = world.sample_thing(rng, ("still",))
        places, motions = (rng.choice(of, 2, replace=False) for of in (world.BACKGROUNDS, GOES))
        shots = tuple(
            world.Shot((dataclasses.replace(thing, motion=str(motion)),), str(place))
            for motion, place in zip(motions, places, strict=True)
        )
        facts = world.Facts(shots)
        if named:
            texts = [world.caption(world.Facts((shot,)), rng, long=False) for shot in shots]
            character = []
        else:
            texts = list(map(_unnamed, shots))
            character = [_picture_of(thing, tuple(places), draw, rng, index)]
        prompt = f"{texts[0].rstrip('.')}. Cut to: {texts[1]}"
        timeline = vjax.text(prompt, frames=model.frames, character=character)
        truth = functools.partial(draw, facts, (_CLIP, SEED, index, 5), frames=model.frames)
        known = np.zeros(model.frames, bool)
        return _trial(index, timeline, facts, truth, films.portrayed, known=known)

    return Row(name, trial, 1)
