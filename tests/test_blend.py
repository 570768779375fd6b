"""blend: a bridge between two videos, or both mixed under a curve."""

import numpy as np
import pytest
import tiny

import vjax
from vjax import video as media
from vjax.pipeline import Pipeline
from vjax.timeline import RequestError
from vjax.verbs.blend import parse_curve

A, B = tiny.clip(9, seed=1), tiny.clip(9, seed=2)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(tiny.bundle())


def test_a_bridge_is_made_between_both(pipe):
    plan = pipe.plan(vjax.blend(A, B[:6], "a", seconds=0.5))
    made = pipe(plan, steps=1)
    assert len(made) == 9 + 4 + 6
    np.testing.assert_array_equal(made[:9], A)
    np.testing.assert_array_equal(made[13:], B[:6])
    assert (made[9:13] != A[8]).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 6, 7, 30])
@pytest.mark.parametrize("curve", ["linear", "ease"])
def test_a_mix_has_the_frames_of_both_and_ends_as_they_do(frames, curve, pipe):
    a, b = tiny.clip(frames, seed=1), tiny.clip(frames, seed=2)
    made = pipe(vjax.blend(a, b, "a", curve=curve), steps=2)
    assert made.shape == a.shape
    if frames > 1:
        np.testing.assert_array_equal(made[0], a[0])
        np.testing.assert_array_equal(made[-1], b[-1])
    for frame in range(1, frames - 1):
        assert (made[frame] != a[frame]).any()
        assert (made[frame] != b[frame]).any()


def test_points_of_a_curve_are_seconds_and_influence():
    points = parse_curve("0.25:0,0.5:1,0.75:0.5")
    (piece,) = vjax.blend(A, B, "a", curve=points, fps_in=8).pieces
    share = np.array([0, 0, 0, 0.5, 1, 0.75, 0.5, 0.5, 0.5])
    expected = np.rint((1 - share)[:, None, None, None] * A + share[:, None, None, None] * B)
    np.testing.assert_array_equal(piece.pixels, expected)
    strength = piece.strength[:, 0, 0, 0]
    np.testing.assert_allclose(strength, 1 - 0.8 * (1 - np.abs(2 * share - 1)), atol=1e-6)
    assert (strength == 1).tolist() == [True, True, True, False, True, *[False] * 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curve": "wild"}, "no curve 'wild': choose linear, ease or points"),
        ({"curve": ((0, 0), (1, 1.5))}, "influence of 1.5 at 1 seconds: it goes from 0"),
        ({"curve": ((0, -0.1),)}, "influence of -0.1"),
        ({"curve": ((1, 0), (0, 1))}, "go up from point to point"),
        ({"curve": ((1, 0), (1, 1))}, "go up from point to point"),
        ({"curve": ((0, 0), (2, 1))}, "point at 2 seconds: the mix goes from 0 to 1,"),
        ({"curve": ((-1, 0), (1, 1))}, "point at -1 seconds"),
        ({"curve": ()}, "no point"),
        ({"curve": "linear", "seconds": 1}, "either seconds, of a bridge, or a curve"),
        ({"curve": ((0, 0), (1, 1)), "fps_in": None}, "have no rate: say it with fps_in"),
    ],
)
def test_curves_that_cannot_be_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        vjax.blend(A, B, "a", **({"fps_in": 8} | options))
    for text in ("0:0,1", "a:b", "0:0:0", "0:0,,1:1"):
        with pytest.raises(RequestError, match="is no curve: write TIME:INFLUENCE"):
            parse_curve(text if ":" in text else text + ":")


def test_a_mix_with_frames_of_no_rate_says_so(tmp_path):
    media.write(tmp_path / "a.mkv", A, 8)
    for pair, known in (((tmp_path / "a.mkv", B), "A"), ((A, tmp_path / "a.mkv"), "B")):
        with pytest.raises(RequestError, match=f"{known} has 8 frames .* say fps_in"):
            vjax.blend(*pair, "a", curve="linear")
        assert len(vjax.blend(*pair, "a", curve="linear", fps_in=8).pieces) == 1


def test_inputs_that_disagree_are_fitted_and_it_is_said(tmp_path):
    tone = np.full((8000, 1), 8000, np.int16)
    media.write(tmp_path / "a.mkv", tiny.clip(16, 32, 32), 8, sound=media.Sound(tone, 8000))
    media.write(tmp_path / "b.mkv", tiny.clip(16, 48, 64), 16, sound=media.Sound(-tone, 8000))
    timeline = vjax.blend(tmp_path / "a.mkv", tmp_path / "b.mkv", "a", curve="linear")
    (piece,) = timeline.pieces
    assert piece.pixels.shape == (8, 32, 32, 3)
    assert timeline.fps == piece.fps == 8
    said = " ".join(piece.notes)
    for words in ("64x48", "16 frames a second", "A has 16 frames and B 8", "same curve"):
        assert words in said
    fitted = media.fit(tiny.clip(16, 48, 64), 32, 32)
    np.testing.assert_array_equal(piece.pixels[0], tiny.clip(1)[0])
    assert (fitted == piece.pixels[-1]).all(axis=(1, 2, 3)).any()
    heard = timeline.sound
    assert (heard.rate, len(heard.samples)) == (8000, 8000)
    # From 8000 of A to -8000 of B, silent where both are as loud.
    middle = heard.samples[2000:2100, 0].astype(float)
    np.testing.assert_allclose(middle, 8000 * (1 - 2 * np.arange(2000, 2100) / 7000), atol=120)
