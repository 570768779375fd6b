"""remix: every frame in place, changed as far as it is asked for."""

import dataclasses

import numpy as np
import pytest
import tiny

import vjax
from vjax import flow, planning
from vjax import method as methods
from vjax import video as media
from vjax.pipeline import Pipeline
from vjax.timeline import RequestError

REGION = np.zeros((32, 32), bool)
REGION[8:20, 3:30] = True


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(tiny.bundle())


def off(made: np.ndarray, given: np.ndarray) -> float:
    return float(np.abs(made.astype(float) - given).mean())


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 6, 7, 30])
def test_frames_out_are_frames_in_and_all_of_them_count(frames, pipe):
    given = tiny.clip(frames)
    made = pipe(vjax.remix(given, "a red circle", strength=0.2), steps=2)
    assert made.shape == given.shape
    # What is beyond the last frame on the grid is none of the start of its latent.
    other = given.copy()
    other[-1] = 255 - other[-1]
    assert (pipe(vjax.remix(other, "a red circle", strength=0.2), steps=2)[-1] != made[-1]).any()


def test_strength_says_how_much_changes(pipe):
    given = tiny.clip(9)
    np.testing.assert_array_equal(pipe(vjax.remix(given, "a", strength=0)), given)
    first, *made = (pipe(vjax.remix(given, "a", strength=s)) for s in (0.01, 0.1, "subtle", 1))
    changes = [off(each, first) for each in made]  # from what the VAE makes of it
    assert 0 < changes[0] < changes[1] < changes[2]
    for name, number in (("subtle", 0.4), ("mild", 0.6), ("strong", 0.8)):
        (piece,) = vjax.remix(given, "a", strength=name).pieces
        np.testing.assert_array_equal(piece.strength, np.float32(1 - number))
    assert (vjax.remix(given, "a").pieces[0].strength == np.float32(1 - 0.6)).all()


def test_outside_of_its_region_all_is_kept(pipe):
    given = tiny.clip(6)
    timeline = vjax.remix(given, "a", strength="strong", region=REGION)
    assert "white in the mask" in timeline.describe()
    made = pipe(timeline)
    np.testing.assert_array_equal(made[:, ~REGION], given[:, ~REGION])
    assert (made[:, REGION] != given[:, REGION]).mean() > 0.8
    with pytest.raises(RequestError, match="mask has 5 frames and the video 6"):
        vjax.remix(given, "a", region=np.ones((5, 32, 32), bool))


def test_each_window_starts_at_one_point(pipe):
    small = Pipeline(tiny.bundle(tiny.model(max_frames=9)))
    seen, given = [], tiny.clip(21)
    start = small.start

    def watch(condition, noise, keys, method):
        seen.append((condition, method))
        return start(condition, noise, keys, method)

    small.start = watch
    timeline = vjax.remix(given, "a red circle", strength=0.25)
    plan = small.plan(timeline)
    small(plan)
    assert len(seen) == plan.windows > 2
    source = small.encode_pixels(given)
    (segment,) = plan.segments
    made = 0
    for (condition, method), window in zip(seen, segment.windows, strict=True):
        assert method.times[0] == 0.25
        new = np.arange(window.start, window.stop) >= made
        strength = np.asarray(condition.strength)[0, :, 0, 0, 0]
        np.testing.assert_array_equal(strength, np.where(new, np.float32(0.75), 1))
        np.testing.assert_allclose(
            np.asarray(condition.source)[0][new], source[window.start : window.stop][new], atol=1e-5
        )
        made = window.stop


def test_shots_know_nothing_of_what_is_given_beyond_their_cuts(pipe):
    given = tiny.clip(14)
    other = np.concatenate([given[:7], 255 - given[7:]])
    made, found = (
        pipe(vjax.remix(each, "red. Cut to blue", strength=0.3)) for each in (given, other)
    )
    np.testing.assert_array_equal(made[:7], found[:7])
    assert not np.array_equal(made[7:], found[7:])


def test_the_source_is_what_the_file_says_the_user_says_or_nobody(tmp_path):
    given = tiny.clip(5)
    media.write(tmp_path / "plain.mkv", given, 8)
    neon = ["{prompt}, neon", ""]
    board = [{"at": 0, "text": "a ring"}, {"at": 1, "image": {"name": "a.png", "sha256": ""}}]
    board += [{"at": 0.25, "text": "it spins"}, {"at": 0.5, "text": "a star", "cut": True}]
    for name, request in (
        ("told", {"verb": "text", "prompt": "a red circle"}),
        ("styled", {"verb": "text", "prompt": "a ring", "style": neon}),
        ("board", {"verb": "storyboard", "cards": board, "style": neon}),
        ("odd", {"verb": "text", "prompt": ["a"]}),
    ):
        media.write(tmp_path / f"{name}.mkv", given, 8, metadata={"request": request})

    def shown(name: str, **options):
        timeline = vjax.remix(tmp_path / f"{name}.mkv", "a blue circle", **options)
        return timeline.source_prompt, " ".join(timeline.pieces[0].notes)

    assert shown("told")[0] == "a red circle"
    assert "told.mkv was made from" in shown("told")[1]
    assert shown("styled")[0] == "a ring, neon"
    assert shown("board")[0] == "a ring, neon. it spins, neon. Cut to: a star, neon."
    larger = vjax.upscale(tmp_path / "board.mkv", size=(64, 64))
    said = [(span.text, span.start, span.end) for span in larger.spans]
    assert said == [
        ("a ring, neon", 0, 0.25),
        ("it spins, neon", 0.25, 0.5),
        ("a star, neon", 0.5, None),
    ]
    assert larger.prompt == ""
    assert vjax.interpolate(tmp_path / "board.mkv", fps=16).spans == larger.spans
    assert shown("told", source_prompt="a star") == ("a star", "")
    assert shown("told", source_prompt="") == ("", "")
    for name in ("plain", "odd"):
        assert shown(name)[0] == ""
        assert "made again with noise" in shown(name)[1]
    told = vjax.remix(tmp_path / "told.mkv", "a blue circle")
    assert told.describe().splitlines()[:2] == ["prompt  a blue circle", "from    a red circle"]


def test_shots_are_compared_each_with_its_own():
    given, source = tiny.clip(9), "a red circle. Cut to right"
    script = planning.plan(
        vjax.remix(given, "a. Cut to: b", source_prompt=source), tiny.MODEL
    ).script
    assert [line.source for line in script.lines] == ["a red circle.", "right"]
    alone = planning.plan(vjax.remix(given, "a", source_prompt=source), tiny.MODEL)
    assert any("has 2 shots and the prompt 1: all of it" in note for note in alone.notes)
    seen = []

    class Watched(Pipeline):
        def _sample(self, condition, *rest):
            seen.append(condition.origin.text[0])
            return np.zeros(condition.source.shape, np.float32)

    pipe = Watched(tiny.bundle())
    pipe(vjax.remix(given, "a. Cut to: b", source_prompt=source))
    wanted = np.asarray(pipe.embed(["a red circle.", "right"]))
    for text, one in zip(seen, wanted, strict=True):  # a window for each shot
        np.testing.assert_allclose(text, one, atol=1e-5)


def test_with_a_source_prompt_only_the_difference_moves(pipe):
    given = tiny.clip(6)
    moved = vjax.remix(given, "blue", source_prompt="a red circle", region=REGION)
    made = pipe(moved)
    np.testing.assert_array_equal(made[:, ~REGION], given[:, ~REGION])
    assert not np.array_equal(made, pipe(vjax.remix(given, "blue", region=REGION)))
    other = vjax.remix(given, "blue", source_prompt="a star", region=REGION)
    assert not np.array_equal(made, pipe(other))
    np.testing.assert_array_equal(made, pipe(moved))
    # Without guidance and a difference all stays, but for the VAE.
    same = vjax.remix(given, "blue", source_prompt="blue", strength="strong")
    first = vjax.remix(given, "blue", strength=1e-4)
    assert off(pipe(same, guidance=1), pipe(first)) < 1
    # What a character is to change is no part of what it was.
    other = 255 - tiny.clip(1)[0]
    drawn = vjax.remix(given, "blue", source_prompt="blue", strength="strong", character=[other])
    assert off(pipe(drawn, guidance=1), pipe(same, guidance=1)) > 0.01
    with pytest.raises(RequestError, match="use euler or heun"):
        pipe(moved, solver="unipc")


def test_windows_compare_with_the_source_as_it_was_given():
    small = Pipeline(tiny.bundle(tiny.model(max_frames=9)))
    seen, given = [], tiny.clip(21)
    start = small.start

    def watch(condition, noise, keys, method):
        seen.append(condition)
        return start(condition, noise, keys, method)

    small.start = watch
    plan = small.plan(vjax.remix(given, "blue", source_prompt="a red circle"))
    assert small(plan).shape == given.shape
    source = small.encode_pixels(given)
    for condition, window in zip(seen, plan.segments[0].windows, strict=True):
        place = slice(window.start, window.stop)
        np.testing.assert_allclose(condition.origin.latents[0], source[place], atol=1e-5)
    carried = np.asarray(seen[1].strength)[0, :, 0, 0, 0] == 1
    assert carried.any()
    assert (np.asarray(seen[1].source)[0][carried] != source[window.start :][0]).any()


def test_steps_in_which_all_stands_still_are_left_out(pipe, monkeypatch):
    timeline = vjax.remix(tiny.clip(5), "a red circle", strength=0.3)
    heard: list[int] = []
    made = pipe(timeline, steps=6, on_step=heard.append)
    assert heard == [1, 2]  # from .3 on, of times 1, 5/6, … 0
    choose = methods.choose

    def whole(*arguments):
        found = choose(*arguments)
        return dataclasses.replace(found, times=flow.schedule(6, found.config.shift))

    monkeypatch.setattr(methods, "choose", whole)
    np.testing.assert_array_equal(pipe(timeline, steps=6), made)
