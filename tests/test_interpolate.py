"""More frames a second: source frames at their times, none doubled or lost, the same duration."""

import itertools
from fractions import Fraction

import clips
import numpy as np
import pytest
import tiny

import vjax
from vjax import planning, video
from vjax.pipeline import Pipeline
from vjax.timeline import RequestError
from vjax.verbs import from_json, options, request_type
from vjax.verbs.interpolate import grids

MODEL = tiny.model(max_frames=33)
NTSC = Fraction(30000, 1001)
COUNTS = (1, 2, 3, 4, 6, 7, 30)


def plan(frames, fps, fps_in, prompt="a", **options) -> planning.Plan:
    return planning.plan(vjax.interpolate(frames, prompt, fps=fps, fps_in=fps_in, **options), MODEL)


def shown(found: planning.Plan) -> list[int]:
    """The number of the given frame that each frame of a result shows; -1 where it is made."""
    pixels, strength = found.canvas.cut(0, found.frames)
    kept = strength[:, 0, 0, 0] == 1
    numbers = iter(clips.numbers(pixels[kept]))
    return [next(numbers) if each else -1 for each in kept]


# --- Frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("times", "count"), itertools.product((2, 3, 8), COUNTS))
def test_between_any_two_frames_so_many_are_made(times, count):
    found = plan(clips.ramp(count, 32, 32), 4 * times, 4)
    assert shown(found) == [n for k in range(count) for n in (k, *[-1] * (times - 1))]
    assert found.canvas.guides == ()


@pytest.mark.parametrize(
    ("own", "wanted"),
    [(8, 16), (24, 30), (Fraction(24000, 1001), 60), (12.5, 30), (NTSC, 30), (30, NTSC * 2)],
)
@pytest.mark.parametrize("count", COUNTS)
def test_frames_on_both_grids_are_kept_and_the_others_guide_at_their_times(own, wanted, count):
    own, wanted = Fraction(own), Fraction(wanted)
    found = plan(clips.ramp(count, 32, 32), float(wanted), float(own))
    assert abs(found.frames / wanted - count / own) <= 1 / (2 * wanted)
    kept = {k * wanted / own: k for k in range(count) if (k * wanted / own).denominator == 1}
    assert shown(found) == [kept.get(j, -1) for j in range(found.frames)]
    guides = {clips.numbers(guide.frames)[0]: guide.at for guide in found.canvas.guides}
    assert sorted([*guides, *kept.values()]) == list(range(count))  # none is doubled or lost
    for number, at in guides.items():
        assert at == pytest.approx(float(number / own * wanted), abs=1e-9)


@pytest.mark.parametrize(("own", "wanted"), [(16, 8), (30, 24), (60, NTSC), (NTSC, 24), (16, 15)])
@pytest.mark.parametrize("count", COUNTS)
def test_a_lower_rate_drops_frames_and_makes_none(own, wanted, count):
    own, wanted = Fraction(own), Fraction(wanted)
    frames, kept, between = grids(count, own, wanted)
    assert list(kept) == list(range(frames))
    assert between == ()
    assert abs(frames / wanted - count / own) <= 1 / (2 * wanted) or frames == 1
    assert sorted(set(kept.values())) == list(kept.values())  # in order, none twice
    assert all(
        0 <= k < count and abs(k / own - j / wanted) <= 1 / (2 * own) for j, k in kept.items()
    )


def test_at_the_same_rate_nothing_is_made_and_nothing_has_to_be_said():
    frames = clips.ramp(7, 32, 32)
    for rate, said in ((8, 8), (float(NTSC), 29.97)):
        found = plan(frames, said, rate, prompt="")
        assert shown(found) == list(range(7))
        assert found.segments == ()
        assert any("already: nothing is made" in note for note in found.notes)
        assert found.warnings == ()
    np.testing.assert_array_equal(Pipeline(tiny.bundle(MODEL))(found), frames)
    half = plan(frames, 4, 8, prompt="")
    assert shown(half) == [0, 2, 4, 6]
    assert any("3 of 7 frames are left out" in note for note in half.notes)


def test_given_frames_come_back_at_their_times_over_several_windows():
    frames = tiny.clip(30)
    made = Pipeline(tiny.bundle(MODEL))(plan(frames, 10, 8), seed=1)  # of 38 frames
    assert len(made) == 38
    np.testing.assert_array_equal(made[::5], frames[::4])
    for frame in np.delete(made, np.s_[::5], axis=0):
        assert frame.std() > 1


# --- Mixes ---------------------------------------------------------------------------------------


def test_what_is_made_departs_from_mixes_of_the_frames_beside_it():
    frames = tiny.clip(4)
    found = plan(frames, 12, 8, strength=0.25)  # frames 0 and 2 of them are 0 and 3 of the result
    pixels, strength = found.canvas.cut(0, found.frames)
    np.testing.assert_array_equal(strength[:, 0, 0, 0], [1, 0.75, 0.75, 1, 0.75, 0.75])
    at = frames.astype(np.float64)
    for j, mixed in {1: (at[0] + 2 * at[1]) / 3, 2: (2 * at[1] + at[2]) / 3, 5: at[3]}.items():
        assert np.abs(pixels[j] - mixed).max() <= 0.51
    assert found.timeline.guidance == 1
    assert plan(frames, 12, 8, negative="red").timeline.guidance is None
    assert "made from mixes of those beside them, with a strength of 0.25" in found.notes[0]
    mixed = plan(frames, 12, 8, prompt="", strength=0)
    assert mixed.segments == ()
    made = Pipeline(tiny.bundle(MODEL))(mixed)
    np.testing.assert_array_equal(made, pixels)
    anew = plan(frames, 12, 8, strength=1)
    np.testing.assert_array_equal(anew.canvas.cut(0, 6)[1].ravel(), [1, 0, 0, 1, 0, 0])
    assert not anew.canvas.departs
    assert anew.timeline.guidance is None


def test_the_longer_it_is_from_frame_to_frame_the_less_is_left_of_mixes():
    for rate, kept in ((16, 0.9), (8, 0.8), (4, 0.6), (2, 0.2), (1, 0)):
        strength = plan(tiny.clip(3), 16 * rate // min(rate, 4), rate).canvas.cut(1, 2)[1]
        assert strength.item() == pytest.approx(kept)


# --- Cuts ----------------------------------------------------------------------------------------


def film(*counts: int) -> np.ndarray:
    """Shots of so many frames, or of 4, 3 and 5, in which a little moves."""
    counts = counts or (4, 3, 5)
    shades = np.random.default_rng(0).integers(0, 200, (len(counts), 32, 32, 3))
    pairs = zip(shades, counts, strict=True)
    shots = [shade + 2 * np.arange(n)[:, None, None, None] for shade, n in pairs]
    return np.concatenate(shots).astype(np.uint8)


@pytest.mark.parametrize("wanted", [12, 16, 24])
def test_nothing_is_mixed_or_seen_over_a_cut(wanted):
    given = film()
    found = plan(given, wanted, 8, strength=0.25)
    assert found.cuts == (-(-4 * wanted // 8), -(-7 * wanted // 8))
    assert any("a cut at 0.5, 0.875 seconds" in note for note in found.notes)
    assert [", with a cut:" in line for line in found.describe().splitlines()[1:4]] == [0, 1, 1]
    shot = np.repeat([0, 1, 2], (4, 3, 5))
    pixels = found.canvas.cut(0, found.frames)[0].astype(int)
    of_shot = np.searchsorted(found.cuts, np.arange(found.frames), side="right")
    for frame, number in zip(pixels, of_shot, strict=True):
        low, high = given[shot == number].min(0), given[shot == number].max(0)
        assert ((low <= frame) & (frame <= high)).all()
    kept = found.canvas.known
    assert kept.sum() + len(found.canvas.guides) == len(given)
    pictures = [guide.frames[0] for guide in found.canvas.guides]
    for segment in found.segments:
        (own,) = {of_shot[segment.first], of_shot[segment.stop - 1]}
        guides = [a.clip.guide for w in segment.windows for a in w.anchors]
        for guide in filter(lambda guide: guide is not None, guides):
            number = next(n for n, each in enumerate(given) if (each == pictures[guide]).all())
            assert shot[number] == own


def test_a_shot_that_is_over_before_it_would_be_shown_is_left_out():
    given = film(2, 1)
    found = plan(given, 11, 10)  # at 0, 0.09 and 0.18 seconds; it begins at 0.2
    assert (found.frames, found.cuts, len(found.canvas.guides)) == (3, (), 1)
    assert np.abs(found.canvas.cut(0, 3)[0][2].astype(int) - given[1]).max() <= 2


@pytest.mark.parametrize("prompt", ["red. Cut to blue", ""])
def test_a_text_that_is_cut_begins_with_the_shot_that_is_given(prompt, tmp_path):
    blue = {"at": 0.55, "text": "blue", "cut": True, "until": 1.125}  # to the end
    cards = [{"at": 0, "text": "red"}, blue]
    made = {"request": {"verb": "storyboard", "cards": cards}}
    video.write(tmp_path / "a.mkv", film(4, 5), 8, metadata=made)
    found = planning.plan(vjax.interpolate(tmp_path / "a.mkv", prompt, fps=24), MODEL)
    assert found.cuts == (12,)
    assert [line[1:3] for line in found.script.lines] == [(0, 12), (12, 27)]


def test_what_moves_fast_or_flashes_is_not_cut():
    given = film()
    assert video.cuts_of(given) == [4, 7]
    assert video.cuts_of(given[:, ::2, ::2]) == [4, 7]
    assert video.cuts_of(clips.ramp(30)) == []
    assert video.cuts_of(given[3:5]) == []  # of two frames alone nobody can tell
    flash = given[:4].copy()
    flash[2] = 255
    assert video.cuts_of(flash) == []
    fast = np.stack([np.roll(given[0], 5 * n, axis=1) for n in range(12)])
    assert video.cuts_of(fast) == []


# --- Rates ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "rate"),
    [
        (24, 24),
        (12.5, Fraction(25, 2)),
        (100 / 3, Fraction(100, 3)),
        (29.97, NTSC),
        (float(NTSC), NTSC),
        (59.94, 2 * NTSC),
        (23.976, Fraction(24000, 1001)),
        (119.88, 4 * NTSC),
        (0.5, Fraction(1, 2)),
    ],
)
def test_a_number_means_an_exact_rate(number, rate):
    assert video.exact_rate(number) == rate


def test_rates_are_read_as_fractions():
    for name in ("fps", "fps_in"):
        parse = options(request_type("interpolate"))[name].parse
        assert parse("30000/1001") == float(NTSC)
        assert parse("12.5") == 12.5
        for word in ("30/0", "fast", "1/2/3", "", "1e999"):
            with pytest.raises(RequestError, match="no frame rate: write a number or a fraction"):
                parse(word)


# --- Files ---------------------------------------------------------------------------------------


def test_the_prompt_is_the_files_own_and_the_sound_stays_as_it_is(tmp_path):
    beeps = np.random.default_rng(0).integers(-9000, 9000, (8000, 1)).astype(np.int16)
    sound, made = video.Sound(beeps, 8000), {"request": {"verb": "text", "prompt": "a red circle"}}
    video.write(tmp_path / "a.mkv", clips.ramp(8, 32, 32), 8, sound=sound, metadata=made)
    found = planning.plan(vjax.interpolate(tmp_path / "a.mkv", fps=12), MODEL)
    assert found.timeline.prompt == "a red circle"
    assert any("which a.mkv was made from" in note for note in found.notes)
    assert shown(found) == [0, -1, -1, 2, -1, -1, 4, -1, -1, 6, -1, -1]
    heard = video.arranged(found.kept, found.frames / found.fps)
    np.testing.assert_array_equal(heard.samples, beeps)
    other = planning.plan(vjax.interpolate(tmp_path / "a.mkv", "blue", fps=12), MODEL)
    assert other.timeline.prompt == "blue"
    video.write(tmp_path / "b.mkv", clips.ramp(8, 32, 32), 8)
    with pytest.raises(RequestError, match="does not say what it shows"):
        vjax.interpolate(tmp_path / "b.mkv", fps=12)
    video.write(tmp_path / "c.png", clips.ramp(1), None)
    with pytest.raises(RequestError, match="no frame rate of its own"):
        vjax.interpolate(tmp_path / "c.png", "a", fps=12)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "how many frames a second"),
        ({"fps": 121}, "choose from 1 to 120"),
        ({"fps": 0.5}, "choose from 1 to 120"),
        ({"fps": 120, "fps_in": 0.02}, "at most 600 seconds"),
    ],
)
def test_what_cannot_be_made_is_refused(values, message):
    with pytest.raises(RequestError, match=message):
        vjax.interpolate(tiny.clip(30), "a", **({"fps_in": 8} | values))
    with pytest.raises(RequestError, match="no frame rate of its own"):
        vjax.interpolate(tiny.clip(30), "a", fps=16)
    with pytest.raises(RequestError, match=r"strength of .* cannot be"):
        vjax.interpolate(tiny.clip(30), "a", fps=16, fps_in=8, strength=1.5)
    assert from_json({"verb": "interpolate", "video": "p", "fps": 16}).prompt == ""
