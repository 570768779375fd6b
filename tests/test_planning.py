"""Plans: every frame is made once, on a grid, in windows that carry latents."""

import dataclasses
import itertools

import numpy as np
import pytest
import tiny

import vjax
from vjax import planning
from vjax.planning import Plan
from vjax.segments import Segment
from vjax.timeline import Gap, Piece, RequestError, Span, Timeline

MODEL = tiny.model(max_frames=33)  # 9 latents of 1 + 4 k frames; windows overlap by 2
CONTEXT = 2


def plan(timeline: Timeline, **changes) -> Plan:
    return planning.plan(timeline, dataclasses.replace(MODEL, **changes))


def seconds(frames: int) -> float:
    return frames / MODEL.fps


REQUESTS = {
    "text": vjax.text("a"),
    "one frame": vjax.text("a", frames=1),
    "off the grid": vjax.text("a", frames=32),
    "just over a window": vjax.text("a", frames=34),
    "long text": vjax.text("a", frames=480),
    "animate": vjax.animate(tiny.clip(1)[0], "a", frames=100),
    **{f"after {n}": vjax.extend(tiny.clip(n), "a", seconds=2) for n in range(1, 8)},
    "long after": vjax.extend(tiny.clip(50), "a", seconds=20),
    "before": vjax.extend(tiny.clip(5), "a", seconds=2, before=True),
    "long before": vjax.extend(tiny.clip(50), "a", seconds=20, before=True),
    "gap": vjax.infill(tiny.clip(33), "a", keep=[(0, 5), (28, 33)]),
    "single frames": vjax.infill(tiny.clip(60), "a", keep=[(k, k + 1) for k in range(0, 60, 9)]),
    "far gaps": vjax.infill(tiny.clip(200), "a", keep=[(0, 3), (40, 90), (95, 160), (163, 190)]),
    "a long gap": vjax.infill(tiny.clip(200), "a", keep=[(0, 20), (150, 200)]),
    "all but the start": vjax.infill(tiny.clip(99), "a", keep=[(70, 80)]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_every_unknown_frame_is_made_once_and_windows_carry_latents(name):
    found = plan(REQUESTS[name])
    made = np.zeros(found.frames, int)
    for segment in found.segments:
        made[segment.first : segment.stop] += 1
        grid = segment.start + 1 + 4 * (segment.latents - 1)
        assert segment.start <= segment.first
        assert segment.stop <= grid <= max(segment.stop + 5 + 3, segment.stop + 4 * CONTEXT)
        # The prefix is known and whole, and what is made begins right after it, or after a few
        # frames that are anchors.
        given = slice(segment.start, segment.start + 1 + 4 * (segment.prefix - 1))
        if segment.prefix:
            assert found.canvas.known[given].all()
            assert segment.first - given.stop < 4
        for start, count in clips(segment):
            assert count % 4 == 1
            assert found.canvas.known[start : start + count].all()
            assert start + count <= segment.stop + 5
        there = np.zeros(segment.latents, bool)
        there[: segment.prefix] = True
        sizes = {window.stop - window.start for window in segment.windows}
        assert len(sizes) == 1  # one compiled program
        assert max(sizes) <= 9
        for number, window in enumerate(segment.windows):
            inside = there[window.start : window.stop]
            assert not inside.all()
            if number:
                assert max(map(len, runs(inside))) >= CONTEXT
            there[window.start : window.stop] = True
        assert there.all()
    assert made.max(initial=0) <= 1
    assert (made == 1)[~found.canvas.known].all()


def clips(segment: Segment) -> list[tuple[float, int]]:
    return [(clip.at, clip.count) for clip in segment.clips]


def runs(mask) -> list[list]:
    return [list(group) for value, group in itertools.groupby(mask) if value] or [[]]


def windows(timeline: Timeline) -> list[list[tuple[int, int]]]:
    return [[(w.start, w.stop) for w in s.windows] for s in plan(timeline).segments]


def test_short_requests_are_one_window_that_ends_where_the_video_does():
    assert windows(vjax.text("a", frames=33)) == [[(0, 9)]]
    assert windows(vjax.text("a", frames=30)) == [[(0, 9)]]
    assert windows(vjax.text("a", frames=29)) == [[(0, 8)]]
    # All that is given serves, as far as there is room.
    (segment,) = plan(vjax.extend(tiny.clip(14), "a", seconds=seconds(16))).segments
    assert (segment.start, segment.prefix, segment.latents) == (1, 4, 8)
    assert segment.clips == ()


def test_a_gap_sees_known_frames_on_both_sides():
    (segment,) = plan(vjax.infill(tiny.clip(33), "a", keep=[(0, 5), (28, 33)])).segments
    assert (segment.start, segment.prefix, segment.latents) == (0, 2, 9)
    assert clips(segment) == [(28, 5)]


def test_long_requests_are_made_window_by_window():
    assert windows(vjax.text("a", frames=65)) == [[(0, 9), (4, 13), (8, 17)]]
    after = plan(vjax.extend(tiny.clip(33), "a", seconds=seconds(32))).segments[0]
    assert [(w.start, w.stop) for w in after.windows] == [(0, 9), (4, 13)]
    assert (after.start, after.prefix) == (16, 5)
    before = plan(vjax.extend(tiny.clip(33), "a", seconds=seconds(60), before=True)).segments[0]
    assert before.windows[0].stop == before.latents
    assert before.windows[-1].start == 0
    # The first to be made sees what is given, the others what was made.
    assert clips(before) == [(60, 5)]
    assert [anchor.at for anchor in before.windows[0].anchors] == [60, 64]
    assert before.windows[-1].anchors == ()


def test_gaps_that_are_far_apart_are_made_apart():
    found = plan(REQUESTS["far gaps"]).segments
    assert [(s.first, s.stop) for s in found] == [(3, 40), (90, 95), (160, 163), (190, 200)]
    near = plan(vjax.infill(tiny.clip(33), "a", keep=[(0, 3), (8, 20), (25, 33)])).segments
    assert [(s.first, s.stop) for s in near] == [(3, 25)]


def test_kept_pieces_say_where_they_come_from():
    found = plan(vjax.infill(tiny.clip(32), "a", keep=[(4, 8), (16, 32)]))
    assert found.kept == (planning.Kept(None, 0.5, 1.0, 0.5), planning.Kept(None, 2.0, 4.0, 2.0))
    found = plan(vjax.extend(tiny.clip(8), "a", seconds=2, before=True, fps=16))
    assert found.kept == (planning.Kept(None, 0.0, 1.0, 2.0),)
    # A piece from the middle of a file goes with what is heard there.
    film = (Piece(tiny.clip(4), sound="a", heard=3.0), Gap(1), Piece(tiny.clip(8), sound="b"))
    assert plan(Timeline("a", film)).kept == (
        planning.Kept("a", 3.0, 3.5, 0.0),
        planning.Kept("b", 0.0, 1.0, 1.5),
    )
    assert plan(vjax.text("a")).kept == ()


def test_a_strip_shows_what_is_known():
    found = plan(vjax.bridge(np.full((32, 32, 3), 200), np.full((32, 32, 3), 90), "a", frames=9))
    strip = found.strip(3)
    assert strip.shape == (96 + 6, 3 * 98, 3)
    assert [strip[48, 48 + 98 * n].tolist() for n in range(3)] == [[200] * 3, [128] * 3, [90] * 3]
    below = [strip[-3, 48 + 98 * n].tolist() for n in range(3)]
    assert below[0] == below[2] != below[1]


def test_a_strip_shows_which_text_speaks():
    spans = (Span("a", 0, 0.5), Span("b", 0.5, 1))
    strip = plan(Timeline("a", frames=12, spans=spans)).strip(12)
    above = [tuple(strip[1, 48 + 98 * n].tolist()) for n in range(12)]
    assert len(set(above[:4])) == len(set(above[4:8])) == len(set(above[8:])) == 1
    assert len(set(above)) == 3


def test_notes_and_warnings_are_sentences():
    found = planning.plan(vjax.text("a red dragon" * 9, negative="é" * 40), MODEL, tiny.tokenizer())
    assert found.notes == ()
    unknown, long, negative = found.warnings
    assert "cannot know" in unknown
    assert "dragon" in unknown
    assert "The prompt is longer than the 32 tokens" in long
    assert "The negative prompt is longer" in negative
    styled = vjax.text("a red circle", style=("{prompt}, dragons, mighty backgrounds", ""))
    (unknown, long) = planning.plan(styled, MODEL, tiny.tokenizer()).warnings
    assert "cannot know of the style: backgrounds, dragons, mighty" in unknown
    assert long.endswith("its end, which the style adds, is left out: backgrounds")
    nothing = plan(vjax.animate(tiny.clip(1)[0], "a", frames=1))
    assert "nothing is made" in nothing.notes[0]
    assert nothing.segments == ()


def test_a_model_of_pictures_says_so():
    assert plan(vjax.text("a"), frames=1, max_frames=1).windows == 1
    with pytest.raises(RequestError, match="pictures only"):
        plan(vjax.text("a", frames=2), frames=1, max_frames=1)


def test_a_ring_is_decoded_once_around_before_it_is_shown():
    (segment,) = plan(vjax.loop("a", frames=32)).segments
    (window,) = segment.windows
    assert segment.ring
    assert window.start == window.stop - window.start == 8
    assert (segment.start, segment.first, segment.stop) == (-1 - 4 * 7, 0, 32)
