"""Known frames as conditions: in place where that is exact, elsewhere as anchors in time."""

import functools

import numpy as np
import pytest
import tiny

import vjax
from vjax import conditioning
from vjax import timeline as timelines
from vjax.pipeline import Pipeline
from vjax.timeline import Timeline

TEXT = np.zeros((8, 16), np.float32)


@functools.cache
def pipe() -> Pipeline:
    return Pipeline(tiny.bundle())


def encode(frames: np.ndarray) -> np.ndarray:
    return np.asarray(pipe().encode(frames[None].astype(np.float32) / 127.5 - 1))[0]


def condition(timeline: Timeline):
    canvas = timelines.on_canvas(timeline, tiny.MODEL)
    window = timelines.next_window(canvas, tiny.MODEL)
    canvas = timelines.cut(canvas, *window)
    return conditioning.anchors(canvas, tiny.MODEL, encode, TEXT, TEXT)


def test_nothing_known():
    found = condition(vjax.text("a"))
    assert found.source.shape == (1, 3, 4, 4, 4)
    assert not found.source.any()
    assert not found.strength.any()
    assert found.anchors.shape == (1, 0, 4, 4, 4)
    np.testing.assert_array_equal(found.positions, [[0, 1, 2]])


def test_a_prefix_is_encoded_in_place_exactly():
    video = tiny.clip(9)
    found = condition(vjax.extend(video[:5], "a", seconds=0.5))
    np.testing.assert_allclose(found.source[0, :2], encode(video)[:2], atol=1e-5)
    assert found.strength[0, :, 0, 0, 0].tolist() == [1, 1, 0]
    assert not found.source[0, 2:].any()
    assert found.anchors.shape[1] == 0


def test_frames_of_a_prefix_beyond_whole_latents_become_anchors():
    video = tiny.clip(7)
    found = condition(vjax.extend(video, "a", seconds=0.25))
    assert found.strength[0, :, 0, 0, 0].tolist() == [1, 1, 0]
    # Frames 5 and 6 fill no latent: each is an anchor of its own.
    np.testing.assert_array_equal(found.anchor_positions, [[5 / 4, 6 / 4]])
    np.testing.assert_allclose(found.anchors[0, :1], encode(video[5:6]), atol=1e-5)
    np.testing.assert_allclose(found.anchors[0, 1:], encode(video[6:7]), atol=1e-5)


def test_later_ranges_become_anchors():
    video = tiny.clip(17)
    found = condition(vjax.infill(video, "a", keep=[(0, 1), (6, 11), (14, 17)]))
    assert found.strength[0, :, 0, 0, 0].tolist() == [1, 0, 0, 0, 0]
    np.testing.assert_array_equal(found.anchor_positions * 4, [[6, 10, 14, 16]])
    np.testing.assert_allclose(found.anchors[0, :2], encode(video[6:11]), atol=1e-5)
    np.testing.assert_allclose(found.anchors[0, 2:3], encode(video[14:15]), atol=1e-5)
    np.testing.assert_allclose(found.anchors[0, 3:], encode(video[16:17]), atol=1e-5)


def test_what_follows_is_known_at_its_own_time():
    video = tiny.clip(5)
    found = condition(vjax.extend(video, "a", seconds=0.5, before=True))
    assert not found.strength.any()
    np.testing.assert_array_equal(found.anchor_positions * 4, [[4, 8]])
    np.testing.assert_allclose(found.anchors[0], encode(video), atol=1e-5)


@pytest.mark.parametrize("fps", [4, 16])
def test_positions_are_in_the_models_own_frames(fps):
    keep = [(0, 1), (8, 9)]
    found = condition(vjax.infill(tiny.clip(9), "a", keep=keep, fps_in=fps, fps=fps))
    stretch = 8 / fps
    np.testing.assert_allclose(found.positions, [[0, stretch, 2 * stretch]])
    np.testing.assert_allclose(found.anchor_positions, [[2 * stretch]])


def test_partial_strength_is_one_value_per_token():
    strength = np.zeros((9, 32, 32, 1), np.float32)
    strength[:, :, 16:] = 0.5
    strength[0] = 1
    strength[7, 8:16, 24:] = 0.25  # one frame of a latent's four decides, if it is the weakest
    strength[2, 3, 17] = 0  # and so does one pixel
    video = tiny.clip(9)
    found = condition(Timeline("a", pixels=video, strength=strength))
    expected = np.zeros((3, 4, 4))
    expected[1:, :, 2:] = 0.5
    expected[0] = 1
    expected[2, 1, 3] = 0.25
    expected[1, 0, 2] = 0
    np.testing.assert_array_equal(found.strength[0, ..., 0], expected)
    np.testing.assert_allclose(found.source[0, 0], encode(video)[0], atol=1e-5)
    assert found.source[0][expected > 0].all()
    assert not found.source[0][expected == 0].any()
