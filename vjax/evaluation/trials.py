"""What a model is asked for: rows of trials, each a request with its facts and a true answer.

A trial is a pure function of its row and index, and no training draws from these seeds. Its true
answer is a clip of the world that shows the facts; where a request gives frames, they are taken
from it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, UInt8

import vjax
from vjax import world
from vjax.config import ModelConfig
from vjax.timeline import Timeline

SEED = 2_000_003
# What a stream of random numbers is for comes first in its seed.
_TEXT, _TEXT_CLIP, _TASK, _TASK_CLIP, _VAE_CLIP = 11, 12, 13, 14, 15
LASTING = ("still", "bounces", "circles", "spins")  # motions that go on for any length


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One clip to make.

    `given` says which of its frames the request gives, `seams` from which frames to the next one
    pieces meet that were not made at once.
    """

    index: int
    timeline: Timeline
    facts: world.Facts
    given: Bool[np.ndarray, " T"]
    seams: Bool[np.ndarray, " T-1"]
    draw: Callable[[], np.ndarray]

    @property
    def seed(self) -> int:
        """For sampling."""
        return SEED + self.index

    @property
    def said(self) -> str:
        """All that words ask for, and what they say of what is given."""
        asked = self.timeline
        shown = f"from {asked.source_prompt}" if asked.source_prompt else ""
        return " / ".join(filter(None, [asked.prompt, *(s.text for s in asked.spans), shown]))

    @functools.cached_property
    def truth(self) -> UInt8[np.ndarray, "T H W 3"]:
        """What a perfect model might answer."""
        return self.draw()

    @property
    def made(self) -> slice:
        """The frames that the model makes: one stretch, in every row."""
        at = np.flatnonzero(~self.given)
        return slice(int(at[0]), int(at[-1]) + 1)

    def restored(self, video: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
        """The same with what is given put back in its place."""
        video = video.copy()
        video[self.given] = self.truth[self.given]
        return video

    def frozen(self) -> UInt8[np.ndarray, "T H W 3"]:
        """What a still picture would answer: the nearest given frame, or the first of the truth."""
        known = np.flatnonzero(self.given) if self.given.any() else np.zeros(1, int)
        at = np.arange(len(self.given))
        nearest = known[np.abs(at[:, None] - known[None, :]).argmin(axis=1)]
        return self.truth[nearest]


@dataclasses.dataclass(frozen=True)
class Row:
    """Trials of one kind. `share`: how many there are to one of the main rows."""

    name: str
    trial: Callable[[int], Trial]
    share: float = 0.25


def _one_thing(rng, index: int, seconds: float, split: str = "train", motions=world.MOTIONS):
    """Facts of one thing; motions take turns."""
    thing = world.sample_thing(rng, (motions[index % len(motions)],), split)
    return world.Facts((world.Shot((thing,), str(rng.choice(world.BACKGROUNDS))),))


def _of_kind(wanted: Callable[[world.Facts], bool]):
    def sample(rng, index: int, seconds: float) -> world.Facts:
        while True:
            facts = world.sample_facts(rng, seconds)
            if wanted(facts):
                return facts

    return sample


def _text_row(name, sample, model: ModelConfig, frames: int, size=None, share=0.25) -> Row:
    width, height = size or (model.width, model.height)

    def trial(index: int) -> Trial:
        rng = np.random.default_rng((_TEXT, SEED, index))
        facts = sample(rng, index, (frames - 1) / model.fps)
        first = facts.shots[0]
        while True:
            prompt = world.caption(facts, rng, long=index // 10 % 2 == 1, moving=frames > 1)
            # What is scored is said: some captions of a wall do not say which way.
            if not first.wall or first.things[0].motion in prompt:
                break
        draw = functools.partial(
            world.render,
            facts,
            (_TEXT_CLIP, SEED, index),
            frames=frames,
            height=height,
            width=width,
            fps=model.fps,
        )
        timeline = vjax.text(prompt, size=(width, height), frames=frames)
        # Windows meet somewhere in the second half of what is longer than one.
        seams = (np.arange(frames - 1) >= frames // 2) & (frames > model.frames)
        return Trial(index, timeline, facts, np.zeros(frames, bool), seams, draw)

    return Row(name, trial, share)


def _task_row(
    name: str, given: np.ndarray, ask: Callable[[np.ndarray, str], Timeline], model: ModelConfig
) -> Row:
    """Requests that give frames of a clip of one thing, which moves in all the rest if at all."""
    made = slice(*(np.flatnonzero(~given)[[0, -1]] + (0, 1)))
    seams = given[:-1] != given[1:]

    def trial(index: int) -> Trial:
        for attempt in itertools.count():
            rng = np.random.default_rng((_TASK, SEED, index, attempt))
            facts = _one_thing(rng, index, 0)
            prompt = world.caption(facts, rng, long=index // 10 % 2 == 1)
            draw = functools.partial(
                world.render,
                facts,
                (_TASK_CLIP, SEED, index, attempt),
                frames=len(given),
                height=model.height,
                width=model.width,
                fps=model.fps,
            )
            clip = draw()
            changes = (np.diff(clip[made].astype(np.int16), axis=0) != 0).any(axis=(1, 2, 3))
            if facts.shots[0].things[0].motion == "still" or changes.mean() > 0.8:
                return Trial(index, ask(clip, prompt), facts, given, seams, draw)
        raise AssertionError("there is no end to attempts")

    return Row(name, trial)


def rows(model: ModelConfig, frames: int | None = None) -> list[Row]:
    """All rows for a model. With `frames`, those of words alone, at this length.

    They are all that there is for a model of pictures, too.
    """
    length = model.frames if frames is None else frames
    # In front of a wall and between two shots, there has to be time for what happens.
    seconds = (length - 1) / model.fps
    tall, wide = ((80, 128), (128, 80)) if model.height == 96 else ((96, 160), (160, 96))
    text = functools.partial(_text_row, model=model, frames=length)
    found = [
        text("one thing", _one_thing, share=1),
        text("held-out pairs", functools.partial(_one_thing, split="held_out"), share=1),
        text("two things", _of_kind(lambda f: len(_first(f).things) == 2 and _flat(f))),
    ]
    if seconds >= world.WALL_SECONDS:
        found.append(text("behind the wall", _of_kind(lambda f: _first(f).wall and _flat(f))))
    if length > 1:
        found.append(text("camera", _of_kind(lambda f: _first(f).camera != "static" and _flat(f))))
    if seconds >= world.CUT_SECONDS:
        found.append(text("two shots", _of_kind(lambda f: len(f.shots) == 2 and _flat(f))))
    found += [
        text("styles", _of_kind(lambda f: not _flat(f) and len(f.shots) == 1)),
        text(f"one thing, {tall[0]}x{tall[1]}", _one_thing, size=tall),
        text(f"one thing, {wide[0]}x{wide[1]}", _one_thing, size=wide),
    ]
    if frames is not None or length < 3:  # of which both ends and a middle can be given
        return found
    ratio, at = model.vae.temporal_ratio, np.arange(length)
    ends = 1 + ratio * ((length - 1) // ratio // 8)  # given at each end of a gap
    begin = 1 + ratio * ((length - 1) // ratio // 4)  # given before or after what is made
    seconds = (length - begin) / model.fps
    return [
        *found,
        _text_row(
            "two windows",
            functools.partial(_one_thing, motions=LASTING),
            model,
            2 * length - 1,
        ),
        _task_row("animate", at < 1, lambda clip, prompt: vjax.animate(clip[0], prompt), model),
        _task_row(
            "extend after",
            at < begin,
            lambda clip, prompt: vjax.extend(clip[:begin], prompt, seconds=seconds),
            model,
        ),
        _task_row(
            "extend before",
            at >= length - begin,
            lambda clip, prompt: vjax.extend(clip[-begin:], prompt, seconds=seconds, before=True),
            model,
        ),
        _task_row(
            "infill the middle",
            (at < ends) | (at >= length - ends),
            lambda clip, prompt: vjax.infill(
                clip, prompt, keep=[(0, ends), (length - ends, length)]
            ),
            model,
        ),
    ]


def vae_clip(model: ModelConfig, index: int) -> UInt8[np.ndarray, "T H W 3"]:
    """A clip of the whole world in the model's native shape."""
    return world.clip(
        (_VAE_CLIP, SEED, index),
        frames=model.frames,
        height=model.height,
        width=model.width,
        fps=model.fps,
    )[0]


def _first(facts: world.Facts) -> world.Shot:
    return facts.shots[0]


def _flat(facts: world.Facts) -> bool:
    return facts.style == "flat"
