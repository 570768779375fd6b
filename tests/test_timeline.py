"""Timelines on a model's canvas: sizes, lengths, rates and ranges, checked before any compile."""

import math

import numpy as np
import pytest

import vjax
from vjax.canvas import Canvas
from vjax.config import DiTConfig, ModelConfig, VAEConfig
from vjax.layout import on_canvas
from vjax.timeline import Anchor, Gap, Piece, RequestError, Timeline

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


def canvas(timeline: Timeline) -> Canvas:
    return on_canvas(timeline, MODEL)


def shown(timeline: Timeline) -> list[int]:
    """Which given frame each frame of the canvas shows; -1 where nothing is known."""
    found = canvas(timeline)
    pixels, strength = found.cut(0, found.frames)
    return np.where(strength[:, 0, 0, 0] > 0, pixels[:, 0, 0, 0].astype(int), -1).tolist()


# --- Lengths -------------------------------------------------------------------------------------


def test_text_takes_the_native_shape_and_any_length():
    found = canvas(vjax.text("a circle"))
    assert (found.frames, found.width, found.height, found.fps) == (33, 96, 96, 16)
    assert not found.known.any()
    assert canvas(vjax.text("a", frames=32)).frames == 32
    assert canvas(vjax.text("a", seconds=60)).frames == 960
    assert canvas(vjax.text("a", seconds=1.5, fps=12)).frames == 18
    assert canvas(vjax.text("a", seconds=0.001)).frames == 1
    # What is not known takes no memory.
    assert canvas(vjax.text("a", seconds=600)).given == ()


def test_extend_keeps_the_given_frames_and_adds_the_seconds():
    assert shown(vjax.extend(clip(33), "a", seconds=2)) == [*range(33), *[-1] * 32]
    assert shown(vjax.extend(clip(33), "a", seconds=2, before=True)) == [*[-1] * 32, *range(33)]
    assert canvas(vjax.extend(clip(33), "a")).frames == 65


@pytest.mark.parametrize("before", [False, True])
def test_a_length_in_frames_is_filled_on_one_side_only(before):
    new = [-1] * 7
    expected = [*new, *range(5)] if before else [*range(5), *new]
    assert shown(vjax.extend(clip(5), "a", frames=12, before=before)) == expected


def test_infill_forgets_what_is_not_kept():
    found = shown(vjax.infill(clip(33), "a", keep=[(0, 5), (-5, 33)]))
    assert found == [*range(5), *[-1] * 23, *range(28, 33)]


def test_frames_are_cut_inside_and_outside_of_the_canvas():
    found = canvas(vjax.extend(clip(5), "a", frames=9, before=True))
    pixels, strength = found.cut(-2, 12)
    assert pixels.shape == (14, 96, 96, 3)
    assert pixels[:, 0, 0, 0].tolist() == [0] * 6 + [0, 1, 2, 3, 4] + [0] * 3
    assert strength[:, 0, 0, 0].tolist() == [0] * 6 + [1] * 5 + [0] * 3
    assert not found.cut(20, 22)[1].any()
    assert not found.cut(0, 3)[0].any()


def test_pieces_lie_where_the_film_says():
    def piece(number: int, count: int = 1, **fields) -> Piece:
        return Piece(clip(count) + number, **fields)

    def film(*items, **fields) -> list[int]:
        return shown(Timeline("a", items, **fields))

    ends = film(piece(1), Gap(), piece(2))
    assert ends == [1, *[-1] * 31, 2]
    assert film(Gap(), piece(1), piece(2), frames=4) == [-1, -1, 1, 2]
    assert film(piece(1), Gap(0.125), piece(2, 2), Gap(), frames=7) == [1, -1, -1, 2, 3, -1, -1]
    # Times of their own close the gap before them, and what floats in it lies at its end.
    assert film(piece(1, at=0.125), piece(2, at=0.25)) == [-1, -1, 1, -1, 2]
    assert film(Gap(), piece(1), piece(2, at=0.25), Gap(), frames=6) == [-1, -1, -1, 1, 2, -1]
    for n in range(1, 7):
        assert film(piece(1, at=n / 16), Gap(), frames=9).index(1) == n
    assert film(piece(1, at=2.0), Gap()).index(1) == 32
    assert len(film(piece(1, at=3.0), Gap())) == 49


def test_a_loop_of_one_window_is_of_whole_latents():
    assert canvas(vjax.loop("a")).frames == 32
    assert canvas(vjax.loop("a", seconds=1.9)).frames == 32
    assert canvas(vjax.loop("a", seconds=0.1)).frames == 4
    assert canvas(vjax.loop("a", frames=64)).frames == 64
    assert canvas(vjax.loop("a", frames=70)).frames == 70  # it is made by windows
    with pytest.raises(RequestError, match="loops of 64 or 68"):
        canvas(vjax.loop("a", frames=66))
    with pytest.raises(RequestError, match="loops of 32 or 36 frames, not of 33"):
        canvas(vjax.loop("a", frames=33))
    found = canvas(vjax.loop("a", clip(40), frames=50))
    assert (found.shown, found.hidden) == (50, 32)
    with pytest.raises(RequestError, match="not 1 seconds before it"):
        Timeline("a", (Piece(clip(8), at=1.0), Gap()), loop=True)
    assert Timeline("a", (Piece(clip(8), at=0.0), Gap()), loop=True).loop


def test_pieces_of_other_shapes_are_fitted_alike():
    film = (Piece(clip(1, 64, 64)), Gap(), Piece(clip(1, 64, 96)), Piece(clip(2), fps=8))
    found = canvas(Timeline("a", film, size=(80, 96)))
    assert [given.frames.shape for given in found.given] == [
        (1, 96, 80, 3),
        (1, 96, 80, 3),
        (4, 96, 80, 3),
    ]
    assert [given.at for given in found.given] == [0, 28, 29]
    assert len(found.notes) == 4


def test_a_timeline_says_what_it_holds():
    half = np.ones((3, 1, 1, 1))
    half[1:] = 0
    film = (Piece(clip(1, 64, 80), at=1.5), Gap(2), Piece(clip(3), half, fps=8), Gap())
    found = Timeline("a star", film, negative="a cross", seconds=9, size=(96, 64), fps=24)
    assert found.describe().splitlines() == [
        "prompt  a star",
        "not     a cross",
        "made    until 1.5 s",
        "given   1 frame of 80x64 at 1.5 s: kept",
        "made    2 s",
        "given   3 frames of 96x96, 8 a second: 1 kept, 2 made anew",
        "made    what is left of the length",
        "in all  9 s, 96x64, 24 frames a second",
    ]
    assert repr(found) == f"<Timeline\n{found.describe()}>"  # and no pixels
    assert repr(film[0]) == "<Piece 1 frame of 80x64 at 1.5 s: kept>"
    assert repr(Anchor(clip(2))) == "<Anchor 2 frames of 96x96: a reference>"
    mask = np.ones((2, 96, 96, 1))
    mask[:, :24] = 0
    assert Timeline("a", (Piece(clip(2), mask),)).describe().splitlines()[1] == (
        "given   2 frames of 96x96: of the pixels 75% kept (black in the mask), "
        "25% made anew (white in the mask)"
    )


# --- Frame rates ---------------------------------------------------------------------------------


def test_other_frame_rates_are_resampled_in_time():
    timeline = vjax.extend(clip(60), "a", seconds=1, fps_in=30)
    found = shown(timeline)
    assert len(found) == 48
    np.testing.assert_allclose(found[:32], np.arange(32) * 30 / 16, atol=0.6)
    assert "16" in canvas(timeline).notes[0]


def test_an_array_has_the_models_rate_whatever_the_results():
    assert shown(vjax.extend(clip(16), "a", seconds=1, fps=16))[:16] == list(range(16))
    found = shown(vjax.extend(clip(16), "a", seconds=1, fps=32))
    assert len(found) == 64
    assert sorted(set(found[:32])) == list(range(16))  # each is shown twice
    assert len(shown(vjax.extend(clip(16), "a", seconds=1, fps=8))) == 16


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([(1, 2), (30, 31)], r"no frame shows what 1:2 are of the given 60.*could be kept"),
        ([(0, 2), (3, 60)], r"no frame shows what 2:3 are of the given 60.*would be made"),
    ],
)
def test_ranges_that_no_frame_shows_are_refused(keep, message):
    with pytest.raises(RequestError, match=message):
        canvas(vjax.infill(clip(60), "a", keep=keep, fps_in=60))
    assert canvas(vjax.infill(clip(60), "a", keep=keep, fps_in=60, fps=60)).frames == 60
    found = canvas(vjax.infill(clip(60), "a", keep=[(0, 5), (30, 31)], fps_in=60))
    assert found.known.tolist() == [n in (0, 1, 8) for n in range(16)]


# --- Sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(480, 480, (96, 96)), (160, 96, (80, 128)), (96, 160, (128, 80)), (270, 480, (144, 80))],
)
def test_other_shapes_are_fitted_to_the_nearest_size(height, width, size):
    found = canvas(vjax.animate(clip(1, height, width)[0], "a"))
    assert (found.width, found.height, found.frames) == (*size, 33)
    assert found.given[0].frames.shape == (1, *size[::-1], 3)
    assert len(found.notes) == 1


@pytest.mark.parametrize(("width", "height"), [(160, 160), (64, 96), (112, 144)])
def test_clips_keep_a_size_that_the_model_makes(width, height):
    given = clip(3, height, width)
    mask = np.ones((height, width), bool)
    for timeline in (vjax.extend(given, "a"), vjax.inpaint(given[0], "a", mask=mask)):
        found = canvas(timeline)
        assert (found.width, found.height) == (width, height)


def test_a_resized_binary_mask_stays_binary():
    mask = np.zeros((2, 130, 130, 1), np.float32)
    mask[:, 31:77, 52:] = 1
    found = canvas(Timeline("a", (Piece(clip(2, 130, 130), mask),), size=(96, 96)))
    assert set(np.unique(found.given[0].strength)) == {0.0, 1.0}
    np.testing.assert_allclose(np.mean(found.given[0].strength), mask.mean(), atol=0.01)
    half = canvas(Timeline("a", (Piece(clip(2, 130, 130), 1 - 0.7 * mask),), size=(96, 96)))
    assert set(np.unique(half.given[0].strength)) == {np.float32(0.3), 1}
    soft = mask / 2
    soft[:, :20] = 0.25
    soft = canvas(Timeline("a", (Piece(clip(2, 130, 130), soft),), size=(96, 96)))
    assert len(np.unique(soft.given[0].strength)) > 3
    np.testing.assert_allclose(np.max(soft.given[0].strength), 0.5, atol=0.07)


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeline", "message"),
    [
        (vjax.text("  "), "prompt is empty"),
        (vjax.text("a", size=(100, 96)), "nearest is 96x96"),
        (vjax.text("a", size=(960, 16)), "nearest is 160x64"),
        (vjax.text("a", size=(1280, 720)), "nearest is 160x96"),
        (vjax.upscale(clip(1, 320, 180), "a", size=(1280, 720)), "choose 1280x2272 or 400x720."),
        (vjax.upscale(clip(1, 128, 72), "a", size=(64, 64)), "smaller .*: choose 144x256 or 2"),
        (vjax.text("a", frames=9601), "at most 600 seconds long, 9600 frames"),
        (vjax.text("a", frames=0), "at least 1 frame"),
        (vjax.text("a", frames=-5), "at least 1 frame"),
        (vjax.text("a", seconds=-1.0), "positive"),
        (vjax.text("a", seconds=1e9), "at most 600 seconds"),
        (vjax.text("a", seconds=1.0, frames=17), "not both"),
        (vjax.text("a", fps=1000.0), "1 to 120"),
        (vjax.text("a", fps=0.0), "1 to 120"),
        (Timeline("a", fps=math.nan), "1 to 120"),
        (Timeline("a", seconds=math.inf), "no length"),
        (Timeline("a", seconds=math.nan), "no length"),
        (vjax.extend(clip(9), "a", seconds=1e9), "at most 600 seconds"),
        (vjax.extend(clip(9), "a", seconds=1e308), "at most 600 seconds"),
        (vjax.extend(clip(9), "a", seconds=0.03), "less than one frame at 16.*0.062"),
        (vjax.extend(clip(9), "a", frames=5), "more than a result of 5"),
        (Timeline("a", (Piece(clip(1)), Gap(math.nan))), "added"),
        (Timeline("a", (Gap(), Piece(clip(1)), Gap())), "Two gaps are open"),
        (Timeline("a", (Piece(clip(4)), Piece(clip(1), at=0.1))), "0.25 is the first time"),
        (Timeline("a", (Piece(clip(1), at=2), Gap()), frames=32), "1.9375 is the last time"),
        (Timeline("a", (Piece(clip(1), at=-1),)), "it begins at 0"),
        (Timeline("a", (Gap(5),), frames=3), "more than a result of 3"),
    ],
)
def test_what_cannot_be_made_is_refused_with_what_can(timeline, message):
    with pytest.raises(RequestError, match=message):
        canvas(timeline)


@pytest.mark.parametrize("rate", [0, -1, 2000])
def test_what_is_given_has_a_rate(rate):
    with pytest.raises(RequestError, match=f"rate of {rate:g}"):
        vjax.extend(clip(9), "a", fps_in=rate)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([(0, 34)], "33 frames end at 33"),
        ([(5, 5)], "33 frames end at 33"),
        ([(-34, 2)], "33 frames end at 33"),
        ([(0, 33)], "nothing is left"),
        ([], "at least one range"),
    ],
)
def test_bad_ranges_are_refused(keep, message):
    with pytest.raises(RequestError, match=message):
        vjax.infill(clip(33), "a", keep=keep)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pixels": clip(2), "strength": np.ones((3, 1, 1, 1))}, r"array \[2 1 1 1\] or \[2 96 96"),
        ({"pixels": clip(2), "strength": np.full((2, 1, 1, 1), 1.5)}, "from 1.5 to 1.5"),
        ({"pixels": clip(2), "strength": np.full((2, 1, 1, 1), np.nan)}, "from 0 .generate"),
        ({"pixels": clip(2)[..., :2], "strength": np.ones((2, 1, 1, 1))}, r"\[2, 96, 96, 2\]"),
    ],
)
def test_a_piece_says_what_does_not_fit(fields, message):
    with pytest.raises(RequestError, match=message):
        Piece(**fields)
