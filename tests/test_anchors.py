"""What guides without being shown: at its true time or at none, in every window alike."""

import dataclasses

import numpy as np
import pytest
import tiny

import vjax
from vjax import planning
from vjax.anchors import Anchor, Clip, seen
from vjax.pipeline import Pipeline
from vjax.timeline import Anchor as Guide
from vjax.timeline import Gap, Piece, RequestError, Timeline

MODEL = tiny.model(max_frames=33)  # nine latents; windows overlap by two
PIPE = Pipeline(tiny.bundle(MODEL))


def conditions(timeline: Timeline) -> list:
    """What each window of a request knows."""
    found = []

    class Watched(Pipeline):
        def _sample(self, condition, *rest):
            found.append(condition)
            return np.array(condition.source)

    Watched(tiny.bundle(MODEL))(timeline, solver="euler")
    return found


def picture(seed: int) -> np.ndarray:
    return tiny.clip(1, seed=seed)[0]


REFERENCES = tuple(Guide(picture(seed)) for seed in (5, 6, 7))


# --- Conditions together -------------------------------------------------------------------------


def inpainted() -> Timeline:
    strength = np.ones((9, 32, 32, 1), np.float32)
    strength[2:, 8:24, 8:] = 0
    return Timeline("a", (Piece(tiny.clip(9), strength),))


@pytest.mark.parametrize(
    "timeline",
    [vjax.keyframes([(picture(1), 1.0)], "a", frames=17), inpainted()],
    ids=["key frames", "inpainting"],
)
@pytest.mark.parametrize("count", [1, 3])
def test_references_move_no_time_and_shift_no_mask(timeline, count):
    (plain,) = conditions(timeline)
    (guided,) = conditions(dataclasses.replace(timeline, anchors=REFERENCES[:count]))
    for name in ("source", "strength", "positions"):
        np.testing.assert_array_equal(getattr(guided, name), getattr(plain, name))
    own = plain.anchors.shape[1]
    np.testing.assert_array_equal(guided.anchors[:, :own], plain.anchors)
    np.testing.assert_array_equal(guided.anchor_positions[:, :own], plain.anchor_positions)
    np.testing.assert_array_equal(guided.anchor_positions[0, own:], [-32, -36, -40][:count])
    for latent, reference in zip(guided.anchors[0, own:], REFERENCES, strict=False):
        np.testing.assert_allclose(latent, PIPE.encode_pixels(reference.pixels)[0], atol=1e-5)


def test_what_guides_is_no_frame_of_the_result():
    clip, plan = tiny.clip(5), PIPE.plan(vjax.extend(tiny.clip(5), "a", seconds=1))
    guides = (*REFERENCES, Guide(tiny.clip(5, seed=8), at=1.0))
    timeline = dataclasses.replace(plan.timeline, anchors=guides)
    video, plain = PIPE(timeline), PIPE(plan)
    assert video.shape == plain.shape == (13, 32, 32, 3)
    np.testing.assert_array_equal(video[:5], clip)
    np.testing.assert_array_equal(PIPE.plan(timeline).canvas.known, plan.canvas.known)
    assert not np.array_equal(video[5:], plain[5:])  # but it is heard
    assert PIPE(timeline).tobytes() == video.tobytes()
    with pytest.raises(RequestError, match="the same times guided"):
        PIPE.sample_batch([timeline, plan.timeline], [0, 1])


def test_references_are_where_they_are_in_every_window_and_at_every_rate():
    for fps in (8, 4):
        timeline = vjax.text("a", frames=80, fps=fps)
        found = conditions(dataclasses.replace(timeline, anchors=REFERENCES[:2]))
        assert len(found) > 1
        for condition in found:
            away = condition.anchor_positions[0] - condition.positions[0, 0]
            np.testing.assert_array_equal(away, [-32, -36])


@pytest.mark.parametrize("fps", [4, 8])
def test_what_guides_at_a_time_may_lie_between_frames(fps):
    guides = (Guide(picture(5), at=0.55), Guide(tiny.clip(7), at=1.0, fps=16))
    timeline = dataclasses.replace(vjax.text("a", frames=17, fps=fps), anchors=guides)
    (found,) = conditions(timeline)
    # In latent frames of the model's own rate, two a second; a clip of 7 is 1 + 4 frames and the
    # last one.
    times = np.array([0.55, 1.0, 1.0 + 4 / 16, 1.0 + 6 / 16])
    np.testing.assert_allclose(found.anchor_positions[0], 2 * times, rtol=1e-6)
    encoded = PIPE.encode_pixels(tiny.clip(5))
    np.testing.assert_allclose(found.anchors[0, 1:3], encoded, atol=1e-5)
    last = PIPE.encode_pixels(tiny.clip(7)[6:])
    np.testing.assert_allclose(found.anchors[0, 3:], last, atol=1e-5)


# --- What each window sees -----------------------------------------------------------------------


def test_nothing_guides_over_a_cut():
    timeline = vjax.interpolate(tiny.clip(9), "red. Cut to blue", fps=12, fps_in=8)
    plan = planning.plan(timeline, MODEL)
    (cut,) = plan.cuts
    for segment in plan.segments:
        at = [anchor.at for window in segment.windows for anchor in window.anchors]
        assert at
        assert all((one < cut) == (segment.first < cut) for one in at)


def test_windows_that_see_fewer_look_further():
    anchors = [Anchor(Clip(at, 1, 1), 0) for at in range(0, 40, 3)]
    found = seen(anchors, [(0, 9), (10, 19), (70, 79)], [0, 0, 0], reach=5)
    assert [[anchor.at for anchor in each] for each in found] == [
        [0, 3, 6, 9],
        [9, 12, 15, 18],  # 9 is beyond it, and nearer than 21
        [],  # nothing is there
    ]
    found = seen(anchors, [(0, 9), (10, 19)], [0, 2], reach=5)
    assert [len(each) for each in found] == [5, 3]
    assert seen([], [(0, 9)], [0], reach=5) == [()]


@pytest.mark.parametrize("every", [2, 3, 8])
def test_all_windows_of_a_regular_request_take_one_program(every):
    keep = [(n, n + 1) for n in range(0, 150, every)]
    plan = planning.plan(vjax.infill(tiny.clip(150), "a", keep=keep), MODEL)
    (segment,) = plan.segments
    assert len(segment.windows) > 3
    assert len({len(window.anchors) for window in segment.windows}) == 1
    for window in segment.windows:  # no frame that is known within it is left out
        first, last = (segment.start + 4 * n for n in (window.start, window.stop - 1))
        inside = [n for n in range(max(first, 1), min(last + 1, 150)) if n % every == 0]
        assert set(inside) <= {anchor.at for anchor in window.anchors}
    before = planning.plan(vjax.extend(tiny.clip(5), "a", seconds=20, before=True), MODEL)
    assert [len(window.anchors) for window in before.segments[0].windows] == [2, *[0] * 5]


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeline", "anchors", "message"),
    [
        (vjax.text("a"), 3 * REFERENCES, "At most 8 pictures .* here are 9"),
        (vjax.text("a"), (Guide(tiny.clip(34)),), "here are 10"),
        (vjax.text("a", frames=16), (Guide(picture(1), at=2.5),), "lasts from 0 to 2"),
        (vjax.text("a"), (Guide(picture(1), at=-0.1),), "at -0.1 seconds"),
        (vjax.text("a"), (Guide(picture(1), at=np.nan),), "at nan seconds"),
        (vjax.text("a"), (Guide(picture(1), fps=0),), "rate of 0"),
        (vjax.loop("a"), (Guide(picture(1), at=0.5),), "no first frame"),
    ],
)
def test_what_cannot_guide_is_refused(timeline, anchors, message):
    with pytest.raises(RequestError, match=message):
        planning.plan(dataclasses.replace(timeline, anchors=anchors), MODEL)
    assert planning.plan(dataclasses.replace(timeline, anchors=REFERENCES), MODEL).references


def test_what_guides_is_fitted_and_described():
    guides = (
        Guide(np.zeros((48, 64, 3)), notes=("As it was read.",)),
        Guide(picture(1), at=0.5),
        Guide(tiny.clip(5), at=1.25),
    )
    timeline = Timeline("a", (Piece(tiny.clip(1)), Gap(2)), anchors=guides)
    plan = planning.plan(timeline, MODEL)
    assert plan.canvas.guides[0].frames.shape == (1, 32, 32, 3)
    assert plan.notes == (
        "As it was read.",
        "The given frames are 64x48; they were scaled and cropped at the centre to 32x32.",
    )
    assert timeline.describe().splitlines()[-2:] == [
        "guided  by a picture of 64x48, a reference without a time",
        "guided  by 2 pictures or clips at 0.5 to 1.25 s",
    ]
