"""Judges of verbs: the truth is right, and what fails at what a verb is for is wrong."""

import functools

import numpy as np
import pytest

from vjax.config import ModelConfig, VAEConfig
from vjax.evaluation import verbs

VAE = VAEConfig(dim_mult=(1, 2, 2), temporal_downsample=(True, True))
MODEL = ModelConfig(name="m", fps=16, frames=33, height=96, width=96, max_frames=33, vae=VAE)
ROWS = {row.name: row for row in verbs.rows(MODEL)}


@functools.cache
def trial(row: str, index: int) -> verbs.FilmTrial:
    return ROWS[row].trial(index)


def scores(asked, video) -> dict[str, float]:
    return verbs.judge(asked, np.asarray(video), 16)


@pytest.mark.parametrize("row", [row for row in ROWS if row != "a minute"])
@pytest.mark.parametrize("index", [2, 3])
def test_the_truth_is_right(row, index):
    asked = trial(row, index)
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


@pytest.mark.parametrize("row", [row for row in ROWS if row != "a minute"])
@pytest.mark.parametrize("spoiled", [vanished, recoloured, frozen])
def test_what_vanishes_or_is_something_else_is_wrong(row, spoiled):
    asked = trial(row, 2)
    assert scores(asked, spoiled(asked.truth))["all facts"] == 0


def test_a_step_in_the_middle_is_no_bridge():
    asked = trial("bridge", 2)
    jump = np.concatenate([asked.truth[:10], asked.truth[23:], asked.truth[-1:].repeat(13, 0)])
    assert not scores(asked, jump)["smooth"]
    changed = asked.truth.copy()
    changed[-1, 0, 0] ^= 1
    assert not scores(asked, changed)["ends as given"]
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
    assert verbs.is_smooth(grays(levels)) == smooth


@pytest.mark.parametrize(("last", "closed"), [(15, True), (16, False)])
def test_a_loop_meets_its_start_within_one_and_a_half_steps(last, closed):
    assert verbs.meets(grays([0, 10, 20, 30, 20 + last - 10, last])) == closed


def grays(levels) -> np.ndarray:
    return np.broadcast_to(np.uint8(levels)[:, None, None, None], (len(levels), 4, 4, 3)).copy()
