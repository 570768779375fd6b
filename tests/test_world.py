"""The captioned world keeps its promises: seeded, composable, in words, and inside the frame."""

import collections
import dataclasses

import numpy as np
import pytest

from vjax import world
from vjax.world import captions


def _words(text: str) -> set[str]:
    return {word.strip(":.,").lower() for word in text.split()} - {""}


def _facts(seed: int, seconds: float = 2.0, split: str = "any") -> world.Facts:
    return world.sample_facts(np.random.default_rng(seed), seconds, split)


def _one(shape: str, motion: str, background: str = "black", style: str = "flat") -> world.Facts:
    return world.Facts((world.Shot((world.Thing(shape, "red", motion),), background),), style)


def test_a_seed_stands_for_one_clip():
    first, second = (world.clip((7, 3), frames=9, height=64, width=80) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1:] == second[1:]
    other = world.clip((7, 4), frames=9, height=64, width=80)
    assert other[0].tobytes() != first[0].tobytes()
    # A seed is no other one that was padded with zeros.
    few, more = (world.clip(seed, frames=1, height=64, width=64) for seed in (7, (7, 0)))
    assert few[0].tobytes() != more[0].tobytes()


def test_every_fact_and_every_word_is_reached():
    """All values of all facts are drawn, and captions use the vocabulary: all of it, no more."""
    seen: dict[str, set] = collections.defaultdict(set)
    relations, walls, shots, words = set(), set(), set(), set()
    for seed in range(2500):
        facts = _facts(seed, split="train")
        seen["style"].add(facts.style)
        shots.add(len(facts.shots))
        for shot in facts.shots:
            seen["background"].add(shot.background)
            seen["camera"].add(shot.camera)
            relations.add(shot.relation)
            walls.add(shot.wall)
            for thing in shot.things:
                for key in ("shape", "color", "motion"):
                    seen[key].add(getattr(thing, key))
        rng = np.random.default_rng((seed, 1))
        words |= _words(world.caption(facts, rng, long=False))
        words |= _words(world.caption(facts, rng, long=True))
    assert seen["shape"] == set(world.SHAPES)
    assert seen["color"] == set(world.COLORS)
    assert seen["motion"] == set(world.MOTIONS)
    assert seen["background"] == set(world.BACKGROUNDS)
    assert seen["camera"] == set(world.CAMERAS)
    assert seen["style"] == set(world.STYLES)
    assert relations == {None, *world.RELATIONS}
    assert walls == {False, True}
    assert shots == {1, 2}
    assert words == world.vocabulary()


def test_held_out_pairs_stay_out_of_training():
    for seed in range(1500):
        things = [t for shot in _facts(seed, split="train").shots for t in shot.things]
        assert not any(world.is_held_out(t.shape, t.color, t.motion) for t in things)
    for seed in range(300):
        subject = _facts(seed, split="held_out").shots[0].things[0]
        assert world.is_held_out(subject.shape, subject.color, subject.motion)


def test_captions_say_the_subject():
    for seed in range(300):
        facts = _facts(seed)
        for long in (False, True):
            text = world.caption(facts, np.random.default_rng((seed, 1)), long=long)
            text = text.lower()
            subject = facts.shots[0].things[0]
            assert any(word in text for word in captions.COLOR_WORDS[subject.color])
            assert any(word in text for word in captions.SHAPE_WORDS[subject.shape])


def test_captions_fit_in_160_bytes():
    """Also the longest kinds: two things, and two shots."""
    for seed in range(3000):
        facts = _facts(seed)
        if len(facts.shots) == 2 or facts.shots[0].relation:
            for again in range(3):
                text = world.caption(facts, np.random.default_rng((seed, again)), long=True)
                assert len(text.encode()) <= 160, text


@pytest.mark.parametrize("shape", world.SHAPES)
def test_things_stay_in_the_frame(shape):
    """On black, the thing is whole in every frame: it never thins out at an edge."""
    for motion in world.MOTIONS:
        if not world.can_show(shape, motion):
            continue
        for seed, (height, width) in enumerate([(64, 64), (64, 112), (112, 64)]):
            video = world.render(
                _one(shape, motion), seed, frames=65, height=height, width=width
            ).astype(int)
            ink = video[..., 0] > 120
            assert ink.any(axis=(1, 2)).all()
            # A star's or triangle's tip may touch an edge, not more of it.
            rim = [ink[:, 0], ink[:, -1], ink[:, :, 0], ink[:, :, -1]]
            assert max(int(edge.sum(axis=1).max()) for edge in rim) <= 4
            area = (video[..., 0] - 8).sum(axis=(1, 2))
            if motion not in ("grows", "shrinks"):
                assert area.min() > 0.95 * area.max()


@pytest.mark.parametrize(
    ("height", "width", "frames"),
    [
        (64, 64, 1),
        (64, 256, 5),
        (256, 64, 5),
        (97, 131, 17),
        (75, 64, 2),
        (256, 256, 3),
        (64, 80, 65),
    ],
)
def test_any_size_and_length(height, width, frames):
    for seed in range(12):
        video, facts, short, long = world.clip(seed, frames=frames, height=height, width=width)
        assert video.shape == (frames, height, width, 3)
        assert video.dtype == np.uint8
        assert short
        assert long
        assert len(facts.shots) == 1 or (frames - 1) / 16 >= world.CUT_SECONDS


def test_single_things_come_in_many_sizes():
    radii = []
    for seed in range(60):
        video = world.render(_one("circle", "still"), seed, frames=1, height=64, width=64)
        cover = (video[..., 0].astype(float) - 8) / (230 - 8)
        radii.append(np.sqrt(cover.sum() / np.pi) / 64)
    assert 0.13 <= min(radii) < 0.14
    assert 0.23 < max(radii) <= 0.24


def test_edges_are_smooth():
    """Along the edge of a slide, coverage takes many values, and it adds up to the same area."""
    video = world.render(_one("circle", "right"), 3, frames=33, height=96, width=96).astype(float)
    cover = (video[..., 0] - 8) / (230 - 8)
    partial = cover[(cover > 0.05) & (cover < 0.95)]
    assert len(np.unique(partial.round(2))) > 60
    area = cover.sum(axis=(1, 2))
    assert np.ptp(area) < 0.01 * area.mean()


def test_one_fact_looks_alike_at_any_size_and_rate():
    """Twice the size and twice the frame rate show the same clip, finer."""
    facts = _one("star", "circles")
    small = world.render(facts, 5, frames=9, height=64, width=64, fps=8)
    large = world.render(facts, 5, frames=17, height=128, width=128, fps=16)[::2]
    halved = large.astype(float).reshape(9, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    assert np.abs(halved - small).mean() < 1.0


def test_the_wall_hides_and_gives_back():
    facts = world.Facts(
        (world.Shot((world.Thing("square", "white", "right"),), "black", wall=True),)
    )
    video = world.render(facts, 1, frames=33, height=96, width=96).astype(int)
    visible = (video.min(axis=-1) > 200).sum(axis=(1, 2))
    assert visible[0] > 100
    assert visible.min() < 0.4 * visible[0]
    assert abs(visible[-1] - visible[0]) <= 0.06 * visible[0]


def test_a_cut_changes_the_background_only():
    subject = world.Thing("circle", "red", "still")
    facts = world.Facts((world.Shot((subject,), "black"), world.Shot((subject,), "grass")))
    video = world.render(facts, 2, frames=17, height=64, width=64).astype(int)
    step = np.abs(np.diff(video, axis=0)).mean(axis=(1, 2, 3))
    assert int(step.argmax()) + 1 == world.cut_frame(17)
    assert np.sort(step)[-2] == 0


def test_styles_differ():
    facts = _one("circle", "still")
    drawn = {
        style: world.render(
            dataclasses.replace(facts, style=style), 4, frames=2, height=96, width=96
        )
        for style in world.STYLES
    }
    red = {style: int((video[0, ..., 0] > 150).sum()) for style, video in drawn.items()}
    assert red["outline"] < 0.6 * red["flat"]
    assert red["neon"] < 0.6 * red["flat"]
    blocks = drawn["pixel"][0].reshape(24, 4, 24, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
