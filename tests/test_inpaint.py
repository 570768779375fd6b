"""inpaint: white is made anew, black is kept, whatever the file of the mask and however long."""

import numpy as np
import pytest
import tiny
from PIL import Image

import vjax
from vjax import video as media
from vjax.pipeline import Pipeline
from vjax.timeline import RequestError

REGION = np.zeros((32, 32), bool)
REGION[8:20, 3:30] = True


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(tiny.bundle())


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 6, 7, 30])
def test_frames_out_are_frames_in_and_black_is_kept(frames, pipe):
    given = tiny.clip(frames)
    plan = pipe.plan(vjax.inpaint(given, "a red circle", mask=REGION))
    made = pipe(plan, seed=3, steps=1)
    assert made.shape == given.shape
    np.testing.assert_array_equal(made[:, ~REGION], given[:, ~REGION])
    assert (made[:, REGION] != given[:, REGION]).mean() > 0.9
    # What is white is not looked at, and what is black is, to the last frame.
    hidden = np.where(REGION[:, :, None], 0, given)
    np.testing.assert_array_equal(
        made, pipe(vjax.inpaint(hidden, "a red circle", mask=REGION), seed=3, steps=1)
    )
    last = given.copy()
    last[-1, 24:] = 255 - last[-1, 24:]
    other = pipe(vjax.inpaint(last, "a red circle", mask=REGION), seed=3, steps=1)
    assert (other[-1, REGION] != made[-1, REGION]).any()


def test_a_mask_of_many_frames_changes_each_where_it_says(pipe):
    given, masks = tiny.clip(9), np.zeros((9, 32, 32), bool)
    for n in (0, 3, 4, 5, 8):
        masks[n, 3 * n : 3 * n + 8] = True
    made = pipe(vjax.inpaint(given, "a red circle", mask=masks), seed=3)
    np.testing.assert_array_equal(made[~masks], given[~masks])
    assert (made[masks] != given[masks]).mean() > 0.9


@pytest.mark.parametrize(
    "mask",
    [
        REGION.astype(np.uint8) * 255,
        REGION.astype(np.float64),
        REGION[..., None],
        np.repeat(REGION[..., None], 3, axis=-1),
        np.broadcast_to(REGION, (5, 32, 32)),
        np.broadcast_to(REGION[None, ..., None], (5, 32, 32, 1)),
        np.broadcast_to(REGION[None], (1, 32, 32)),
    ],
    ids=["uint8", "float", "H W 1", "H W 3", "T H W", "T H W 1", "1 H W"],
)
def test_arrays_of_any_kind_are_one_mask(mask):
    (piece,) = vjax.inpaint(tiny.clip(5), "a", mask=mask).pieces
    np.testing.assert_array_equal(piece.strength[..., 0] == 0, np.broadcast_to(REGION, (5, 32, 32)))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((8, 32, 32), bool), "mask has 8 frames and the video 9"),
        (np.ones((10, 32, 32), bool), "mask has 10 frames and the video 9"),
        (np.ones((16, 32), bool), "mask is 32x16 and what it is for is 32x32"),
        (np.ones((64, 64), bool), "mask is 64x64 and what it is for is 32x32"),
        (np.zeros((32, 32), bool), "No pixel of the mask is white"),
        (REGION.astype(np.uint8), "No pixel of the mask is white"),
        (np.ones((2, 2, 2, 2, 3)), "Frames are"),
        (np.full((32, 32), 1.5), "floats go from 0 to 1"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message):
    with pytest.raises(RequestError, match=message):
        vjax.inpaint(tiny.clip(9), "a", mask=mask)


def test_the_videos_own_rate_and_sound_stay_and_still_frames_of_a_mask_count(tmp_path, pipe):
    tone = np.full((8000, 1), 9000, np.int16)
    media.write(tmp_path / "in.mkv", tiny.clip(10), 10, sound=media.Sound(tone, 8000))
    Image.fromarray(REGION).save(tmp_path / "mask.png")
    timeline = vjax.inpaint(tmp_path / "in.mkv", "a", mask=tmp_path / "mask.png")
    plan = pipe.plan(timeline)
    assert (plan.frames, plan.fps) == (10, 10)  # the model's own is 8
    assert any("white in 32% of the picture: that changes, black is kept" in n for n in plan.notes)
    heard = media.arranged(plan.kept, 1.0)
    np.testing.assert_array_equal(heard.samples, tone)
    # A gif shows a frame that does not change once, for longer.
    masks = np.repeat(np.stack([REGION, ~REGION]), 5, axis=0)
    shown = [Image.fromarray(mask) for mask in masks]
    shown[0].save(tmp_path / "mask.gif", save_all=True, append_images=shown[1:], duration=100)
    (piece,) = vjax.inpaint(tmp_path / "in.mkv", "a", mask=tmp_path / "mask.gif").pieces
    np.testing.assert_array_equal(piece.strength[..., 0] == 0, masks)


def test_windows_carry_on_and_the_region_keeps_its_place_when_it_is_fitted(pipe):
    given = tiny.clip(40, 48, 96)
    mask = np.zeros((48, 96), bool)
    mask[:, 48:] = True
    plan = pipe.plan(vjax.inpaint(given, "a", mask=mask, size=(32, 32)))
    assert plan.windows > 1
    made, (fitted, strength) = pipe(plan, seed=1, steps=1), plan.canvas.cut(0, 40)
    assert (strength[:, :, :16] == 1).all()
    assert (strength[:, :, 16:] == 0).all()
    np.testing.assert_array_equal(made[:, :, :16], fitted[:, :, :16])
