"""Timelines on a model's canvas: sizes, lengths, rates and ranges, checked before any compile."""

import numpy as np
import pytest

import vjax
from vjax import timeline as timelines
from vjax.config import DiTConfig, ModelConfig, VAEConfig
from vjax.timeline import RequestError, Timeline

MODEL = ModelConfig(
    name="tiny",
    dit=DiTConfig(patch=(1, 2, 2)),
    vae=VAEConfig(),
    fps=16,
    frames=33,
    height=96,
    width=96,
    max_frames=65,
    min_side=64,
    max_side=160,
)


def clip(frames: int, height: int = 96, width: int = 96) -> np.ndarray:
    ramp = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(ramp, (frames, height, width, 3)).copy()


def test_text_takes_the_native_shape():
    canvas = timelines.on_canvas(vjax.text("a circle"), MODEL)
    assert canvas.pixels.shape == (33, 96, 96, 3)
    assert not canvas.known.any()


def test_extend_keeps_the_given_frames_and_adds_the_seconds():
    after = timelines.on_canvas(vjax.extend(clip(33), "a", seconds=2), MODEL)
    before = timelines.on_canvas(vjax.extend(clip(33), "a", seconds=2, before=True), MODEL)
    assert len(after.pixels) == len(before.pixels) == 65
    np.testing.assert_array_equal(after.pixels[:33], clip(33))
    np.testing.assert_array_equal(before.pixels[32:], clip(33))
    assert after.known.tolist() == [True] * 33 + [False] * 32
    assert before.known.tolist() == [False] * 32 + [True] * 33


def test_infill_forgets_what_is_not_kept():
    canvas = timelines.on_canvas(vjax.infill(clip(33), "a", keep=[(0, 5), (-5, 33)]), MODEL)
    assert canvas.known.sum() == 10
    assert not canvas.pixels[5:28].any()


def test_other_frame_rates_are_resampled_in_time():
    canvas = timelines.on_canvas(vjax.extend(clip(60), "a", seconds=1, fps_in=30), MODEL)
    assert canvas.known.sum() == 32
    assert len(canvas.pixels) == 48
    np.testing.assert_allclose(canvas.pixels[:32, 0, 0, 0], np.arange(32) * 30 / 16, atol=0.6)
    assert "16" in canvas.notes[0]


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(480, 480, (96, 96)), (160, 96, (80, 128)), (96, 160, (128, 80)), (270, 480, (144, 80))],
)
def test_other_shapes_are_fitted_to_the_nearest_size(height, width, size):
    canvas = timelines.on_canvas(vjax.animate(clip(1, height, width)[0], "a"), MODEL)
    assert canvas.pixels.shape[1:3] == size[::-1]
    assert len(canvas.pixels) == 33
    assert len(canvas.notes) == 1


@pytest.mark.parametrize(
    ("timeline", "message"),
    [
        (vjax.text("  "), "prompt is empty"),
        (vjax.text("a", size=(100, 96)), "nearest is 96x96"),
        (vjax.text("a", size=(960, 16)), "nearest is 160x64"),
        (vjax.text("a", frames=32), "29 or 33"),
        (vjax.text("a", frames=1000), "nearest: 65"),
        (vjax.text("a", frames=0), "nearest: 1"),
        (vjax.text("a", seconds=-1.0), "positive"),
        (vjax.text("a", seconds=1.0, frames=17), "not both"),
        (vjax.text("a", fps=1000.0), "1 to 120"),
        (vjax.text("a", fps=0.0), "1 to 120"),
        (vjax.extend(clip(9), "a", seconds=1e9), "At most 600 seconds"),
    ],
)
def test_what_the_model_cannot_make_is_refused_with_the_nearest(timeline, message):
    with pytest.raises(RequestError, match=message):
        timelines.on_canvas(timeline, MODEL)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([(0, 34)], "0 to 33"),
        ([(5, 5)], "0 to 33"),
        ([(0, 33)], "nothing is left"),
        ([], "at least one range"),
    ],
)
def test_bad_ranges_are_refused(keep, message):
    with pytest.raises(RequestError, match=message):
        vjax.infill(clip(33), "a", keep=keep)


def test_bad_arrays_and_lengths_are_refused():
    with pytest.raises(RequestError, match="uint8"):
        vjax.animate(np.zeros((0, 96, 96, 3), np.uint8), "a")
    with pytest.raises(RequestError, match="positive"):
        vjax.extend(clip(9), "a", seconds=0)


def fill(timeline: Timeline) -> list[tuple[int, int]]:
    """The windows that a request is made in, with frames of 255 as what is made."""
    canvas, made = timelines.on_canvas(timeline, MODEL), []
    while (window := timelines.next_window(canvas, MODEL)) is not None:
        start, end = window
        assert (end - start - 1) % 4 == 0
        assert end - start <= 65
        part = timelines.cut(canvas, start, end)
        assert len(part.pixels) == end - start
        assert made == [] or part.known.any()
        canvas = timelines.paste(canvas, start, np.full_like(part.pixels, 255))
        made.append(window)
    given = timelines.on_canvas(timeline, MODEL)
    np.testing.assert_array_equal(canvas.pixels[given.known], given.pixels[given.known])
    assert (canvas.pixels[~given.known] == 255).all()
    return made


def test_short_requests_are_one_window():
    assert fill(vjax.text("a")) == [(0, 33)]
    assert fill(vjax.extend(clip(33), "a", seconds=2)) == [(0, 65)]
    assert fill(vjax.extend(clip(20), "a", seconds=1)) == [(0, 37)]


def test_long_requests_are_made_window_by_window():
    after = fill(vjax.extend(clip(100), "a", seconds=8))
    before = fill(vjax.extend(clip(100), "a", seconds=8, before=True))
    assert len(after) > 2
    assert after[0][0] == 84  # 16 frames of context
    assert len(before) > 2
    assert before[0][1] == 144
    middle = fill(vjax.infill(clip(200), "a", keep=[(0, 90), (100, 200)]))
    assert middle == [(74, 119)]
