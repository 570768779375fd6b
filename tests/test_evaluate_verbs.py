"""Judges of verbs: the truth is right, and what fails at what a verb is for is wrong."""

import dataclasses
import functools

import numpy as np
import pytest

from vjax import world
from vjax.config import ModelConfig, VAEConfig
from vjax.evaluation import films, measures, verbs
from vjax.world import oracle

VAE = VAEConfig(dim_mult=(1, 2, 2), temporal_downsample=(True, True))
MODEL = ModelConfig(name="m", fps=16, frames=33, height=96, width=96, max_frames=33, vae=VAE)
ROWS = {row.name: row for row in verbs.rows(MODEL)}
# Rows whose clips are not drawn at once.
UNPLACED = {"blend under a curve", "storyboard", "storyboard with cuts"}


@functools.cache
def trial(row: str, index: int) -> films.FilmTrial:
    return ROWS[row].trial(index)


def scores(asked, video) -> dict[str, float]:
    return films.judge(asked, np.asarray(video), 16)


@pytest.mark.parametrize("row", ROWS)
def test_the_truth_is_right(row):
    asked = trial(row, 2)
    assert scores(asked, asked.truth)["all facts"] == 1, (asked.timeline.prompt, row)
    assert len(asked.truth) == len(asked.given)


def vanished(video: np.ndarray) -> np.ndarray:
    """Nothing but background in the last third."""
    gone = video.copy()
    gone[-len(video) // 3 :] = np.median(video, axis=(1, 2), keepdims=True)[-len(video) // 3 :]
    return gone


def recoloured(video: np.ndarray) -> np.ndarray:
    """Another background, and another thing."""
    return video[..., ::-1] ^ 255


def frozen(video: np.ndarray) -> np.ndarray:
    return video[:1].repeat(len(video), axis=0)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("spoiled", [vanished, recoloured, frozen])
def test_what_vanishes_or_is_something_else_is_wrong(row, spoiled):
    asked = trial(row, 2)
    assert scores(asked, spoiled(asked.truth))["all facts"] == 0


@pytest.mark.parametrize("row", sorted({*ROWS} - UNPLACED))
def test_the_same_in_another_place_is_wrong(row):
    asked = trial(row, 2)
    places = {shot.background for shot in asked.facts.shots}
    other = next(place for place in world.BACKGROUNDS if place not in places)
    shots = (dataclasses.replace(shot, background=other) for shot in asked.facts.shots)
    film = {"frames": len(asked.truth), "height": 96, "width": 96, "fps": 16}
    assert scores(asked, world.render(world.Facts(tuple(shots)), 2, **film))["all facts"] == 0


def test_a_step_in_the_middle_is_no_bridge():
    asked = trial("bridge", 2)
    jump = np.concatenate([asked.truth[:10], asked.truth[23:], asked.truth[-1:].repeat(13, 0)])
    assert not scores(asked, jump)["smooth"]
    changed = asked.truth.copy()
    changed[-1, 0, 0] ^= 1
    assert not scores(asked, changed)["given frames as given"]
    still = asked.truth[:1].repeat(len(asked.truth), 0)
    still[-1] = asked.truth[-1]
    assert not scores(asked, still)["smooth"]


def test_what_does_not_come_back_is_no_loop():
    asked = trial("loop", 2)
    assert scores(asked, asked.truth)["meets its start"]
    away = trial("bridge", 2).truth[:32]
    assert not scores(asked, away)["meets its start"]


def test_frames_that_stand_still_or_are_changed_are_no_interpolation():
    asked = trial("interpolate", 2)
    assert scores(asked, asked.frozen())["all facts"] == 0
    late = asked.truth.copy()
    late[1::2] = np.roll(asked.truth, 6, axis=0)[1::2]
    assert scores(asked, late)["all facts"] == 0
    changed = asked.truth.copy()
    changed[4, 0, 0] ^= 1
    assert not scores(asked, changed)["given frames as given"]


def test_cards_in_another_order_are_no_storyboard():
    asked = trial("storyboard with cuts", 2)
    each = len(asked.truth) // 3
    swapped = np.concatenate([asked.truth[each:], asked.truth[:each]])
    found = scores(asked, swapped)
    assert not any(found[f"card {number}"] for number in (1, 2, 3))
    assert found["subject kept"]
    frozen = asked.truth[::each].repeat(each, axis=0)
    assert not scores(asked, frozen)["card 1"]


def test_a_remix_changes_what_is_named_and_keeps_where_things_are():
    asked = trial("remix", 2)
    assert not scores(asked, asked.before)["color"]
    elsewhere = np.roll(asked.truth, 20, axis=2)
    assert scores(asked, elsewhere)["off course"] > 0.06
    assert not scores(asked, elsewhere)["all facts"]


def test_what_is_given_is_judged_to_the_pixel():
    for row, at in (("blend", -2), ("image cards", 16), ("blend under a curve", 0)):
        asked = trial(row, 2)
        changed = asked.truth.copy()
        changed[at, 0, 0] ^= 1
        found = scores(asked, changed)
        assert not found["given frames as given"], row
        assert not found["all facts"], row


def test_a_picture_of_a_card_at_another_time_is_not_met():
    asked = trial("image cards", 2)
    late = np.concatenate([asked.truth[:1], asked.truth[:-1]])
    assert not scores(asked, late)["given frames as given"]


def test_a_cut_from_one_to_the_other_is_no_mix():
    asked = trial("blend under a curve", 2)
    first, second = asked.truth[:1], asked.truth[-1:]
    found = scores(asked, np.concatenate([first.repeat(16, 0), second.repeat(17, 0)]))
    assert not found["smooth"]
    assert found["given frames as given"]
    assert not scores(asked, first.repeat(33, 0))["ends as the second"]


def test_inpainting_changes_what_is_named_and_nothing_beside_it():
    asked = trial("inpaint", 2)
    unchanged = scores(asked, asked.before)
    assert unchanged["kept pixels as given"]
    assert not unchanged["color"]
    beside = asked.truth.copy()
    beside[5, *np.argwhere(asked.kept[5])[0]] ^= 1
    assert not scores(asked, beside)["kept pixels as given"]
    masked = asked.timeline.pieces[0].strength[..., 0] == 0
    assert (masked == ~asked.kept).all()
    assert 0 < masked.mean() < 1
    assert (asked.restored(~asked.truth)[asked.kept] == asked.truth[asked.kept]).all()


def test_a_character_is_the_thing_of_the_reference_which_the_prompt_does_not_name():
    for row in ("characters", "characters in two shots"):
        asked, other = trial(row, 2), trial(row, 3)
        (reference,) = asked.timeline.anchors
        thing = asked.facts.shots[0].things[0]
        assert not {thing.color, thing.shape} & set(asked.timeline.prompt.split())
        (seen,) = oracle.read(reference.pixels[:], 16).shots
        assert (seen.things[0].color, seen.things[0].shape) == (thing.color, thing.shape)
        assert seen.background not in [shot.background for shot in asked.facts.shots]
        assert not scores(asked, other.truth)["color and shape"]


def test_what_is_enlarged_is_where_it_was():
    asked = trial("upscale", 2)
    assert asked.before.shape[1:3] == (64, 64)
    elsewhere = np.roll(asked.truth, 4, axis=2)
    assert not scores(asked, elsewhere)["on course"]
    found = scores(asked, asked.truth)
    assert 20 < found["dB of scaled pixels"] < found["dB"]


def test_remix_and_words_alone_ask_for_what_files_say():
    asked = trial("remix", 2)
    shown, prompt = asked.timeline.source_prompt.split(), asked.timeline.prompt.split()
    assert len(shown) == len(prompt)
    assert sum(a != b for a, b in zip(shown, prompt, strict=True)) == 1
    for row in ("bridge", "blend"):
        assert trial(row, 2).timeline.prompt == trial("words alone", 2).timeline.prompt


def test_a_minute_ends_as_it_began():
    asked = trial("a minute", 0)
    short = asked.truth[:64]
    assert scores(asked, short)["all facts"] == 1
    faded = short.copy()
    faded[-32:] = np.minimum(short[-32:].astype(int) + 6, 255)
    assert not scores(asked, faded)["colours within 3 levels"]
    other = np.concatenate([short[:32], trial("a minute", 1).truth[:32]])
    assert not scores(asked, other)["as asked at the end"]


@pytest.mark.parametrize(("step", "smooth"), [(20, True), (21, False)])
def test_a_step_of_more_than_twice_the_median_is_one(step, smooth):
    levels = np.cumsum([0, *[10] * 5, step, *[10] * 5])
    assert measures.is_smooth(grays(levels)) == smooth


@pytest.mark.parametrize(("last", "closed"), [(15, True), (16, False)])
def test_a_loop_meets_its_start_within_one_and_a_half_steps(last, closed):
    assert measures.meets(grays([0, 10, 20, 30, 20 + last - 10, last])) == closed


def grays(levels) -> np.ndarray:
    return np.broadcast_to(np.uint8(levels)[:, None, None, None], (len(levels), 4, 4, 3)).copy()
