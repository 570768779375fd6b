"""Known frames as conditions: in place where that is exact, elsewhere as anchors in time."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import vjax
from vjax import conditioning
from vjax.pipeline import Pipeline
from vjax.timeline import Piece, Timeline


@functools.cache
def pipe() -> Pipeline:
    # Windows of up to nine latents that overlap by two.
    return Pipeline(tiny.bundle(tiny.model(max_frames=33)))


def encode(frames: np.ndarray) -> np.ndarray:
    return np.asarray(pipe().encode(frames[None].astype(np.float32) / 127.5 - 1))[0]


def condition(timeline: Timeline, **options):
    """What the first window of a request knows."""

    class Seen(Exception):
        pass

    def advance(condition, *_):
        raise Seen(condition)

    watched = Pipeline(tiny.bundle(pipe().config))
    watched.start = advance
    with pytest.raises(Seen) as caught:
        watched(timeline, **options)
    return caught.value.args[0]


def test_nothing_is_known_of_plain_text():
    found = condition(vjax.text("a"))
    assert found.source.shape == (1, 3, 4, 4, 4)
    assert not found.source.any()
    assert not found.strength.any()
    assert found.anchors.shape[1] == 0
    np.testing.assert_array_equal(found.positions, [[0, 1, 2]])


def test_a_prefix_is_encoded_in_place_exactly():
    video = tiny.clip(9)
    found = condition(vjax.extend(video[:5], "a", seconds=0.5))
    np.testing.assert_allclose(found.source[0, :2], encode(video)[:2], atol=1e-5)
    assert found.strength[0, :, 0, 0, 0].tolist() == [1, 1, 0]
    assert not found.source[0, 2:].any()
    assert found.anchors.shape[1] == 0


def test_the_grid_is_laid_so_that_what_is_made_begins_a_latent():
    video = tiny.clip(7)
    found = condition(vjax.extend(video, "a", seconds=0.25))
    assert found.strength[0, :, 0, 0, 0].tolist() == [1, 1, 0]
    np.testing.assert_allclose(found.source[0, :2], encode(video[2:]), atol=1e-5)
    assert found.anchors.shape[1] == 0


def test_frames_too_few_for_a_latent_become_anchors():
    video = tiny.clip(3)
    found = condition(vjax.extend(video, "a", seconds=0.25))
    assert found.strength[0, :, 0, 0, 0].tolist() == [1, 0]
    np.testing.assert_array_equal(found.anchor_positions, [[1 / 4, 2 / 4]])
    np.testing.assert_allclose(found.anchors[0, :1], encode(video[1:2]), atol=1e-5)
    np.testing.assert_allclose(found.anchors[0, 1:], encode(video[2:3]), atol=1e-5)


def test_later_ranges_become_anchors():
    video = tiny.clip(17)
    found = condition(vjax.infill(video, "a", keep=[(0, 1), (6, 11), (14, 17)]))
    assert found.strength[0, :, 0, 0, 0].tolist() == [1, 0, 0, 0, 0]
    np.testing.assert_array_equal(found.anchor_positions * 4, [[6, 10, 14, 16]])
    np.testing.assert_allclose(found.anchors[0, :2], encode(video[6:11]), atol=1e-5)
    np.testing.assert_allclose(found.anchors[0, 2:3], encode(video[14:15]), atol=1e-5)
    np.testing.assert_allclose(found.anchors[0, 3:], encode(video[16:17]), atol=1e-5)


def test_what_follows_is_known_at_its_own_time():
    video = tiny.clip(9)
    found = condition(vjax.extend(video, "a", seconds=0.5, before=True))
    assert not found.strength.any()
    # The nearest five frames, two latents: what a model is trained to look at.
    np.testing.assert_array_equal(found.anchor_positions * 4, [[4, 8]])
    np.testing.assert_allclose(found.anchors[0], encode(video[:5]), atol=1e-5)


@pytest.mark.parametrize("fps", [4, 16])
def test_positions_are_in_the_models_own_frames(fps):
    keep = [(0, 1), (8, 9)]
    found = condition(vjax.infill(tiny.clip(9), "a", keep=keep, fps_in=fps, fps=fps))
    stretch = 8 / fps
    np.testing.assert_allclose(found.positions, [[0, stretch, 2 * stretch]])
    np.testing.assert_allclose(found.anchor_positions, [[2 * stretch]])


def test_what_is_known_beside_a_hole_is_what_it_is_without_one():
    video = np.full((9, 32, 32, 3), (200, 120, 40), np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[8:21, 13:24] = True
    found = condition(
        vjax.inpaint(np.where(mask[..., None], 9, video).astype(np.uint8), "a", mask=mask)
    )
    kept = np.broadcast_to(found.strength[0] == 1, found.source.shape[1:])
    assert 0 < kept.mean() < 1
    np.testing.assert_allclose(found.source[0][kept], encode(video)[kept], atol=1e-5)


def test_partial_strength_is_one_value_per_token():
    strength = np.zeros((9, 32, 32, 1), np.float32)
    strength[:, :, 16:] = 0.5
    strength[0] = 1
    strength[7, 8:16, 24:] = 0.25  # one frame of a latent's four decides, if it is the weakest
    strength[2, 3, 17] = 0  # and so does one pixel
    video = tiny.clip(9)
    found = condition(Timeline("a", (Piece(video, strength),)), solver="euler")
    expected = np.zeros((3, 4, 4))
    expected[1:, :, 2:] = 0.5
    expected[0] = 1
    expected[2, 1, 3] = 0.25
    expected[1, 0, 2] = 0
    np.testing.assert_array_equal(found.strength[0, ..., 0], expected)
    np.testing.assert_allclose(found.source[0, 0], encode(video)[0], atol=1e-5)
    assert found.source[0][expected > 0].all()
    assert not found.source[0][expected == 0].any()


# --- One time per patch --------------------------------------------------------------------------


def test_a_patch_is_known_where_all_of_it_is():
    strength = np.ones((1, 2, 4, 6, 1), np.float32)
    strength[0, 1, 1, 2] = 0.5  # in the upper middle patch
    strength[0, 1, 3, 5] = 0.0  # in the lower right one
    found = conditioning.per_patch(strength, (1, 2, 2))
    expected = np.ones((1, 2, 4, 6, 1))
    expected[0, 1, :2, 2:4] = 0.5
    expected[0, 1, 2:, 4:] = 0.0
    np.testing.assert_array_equal(found, expected)
    # In training it is the same code, inside of a program.
    traced = jax.jit(conditioning.per_patch, static_argnums=1)(jnp.asarray(strength), (1, 2, 2))
    np.testing.assert_array_equal(traced, expected)
    per_frame = np.array([0.0, 1.0], np.float32).reshape(1, 2, 1, 1, 1)
    assert conditioning.per_patch(per_frame, (1, 2, 2)).shape == (1, 2, 1, 1, 1)


def test_a_mask_whose_edge_falls_into_a_patch_keeps_whole_patches_only():
    # The edge of the mask falls into a patch of two by two latents, 16 by 16 pixels.
    model = tiny.model(dit=dataclasses.replace(tiny.MODEL.dit, patch=(1, 2, 2)))
    strength = np.zeros((5, 32, 32, 1), np.float32)
    strength[:, :, :24] = 1
    kept = conditioning.of_pixels(strength, model)
    assert kept.shape == (1, 4, 4, 1)
    np.testing.assert_array_equal(kept[0, 0, :, 0], [1, 1, 0, 0])
    # So a token has one time, and that of no noisy latent is 0.
    np.testing.assert_array_equal(kept, conditioning.per_patch(kept, (1, 2, 2)))
