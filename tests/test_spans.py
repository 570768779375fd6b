"""Texts over time: each latent frame hears the text of its own span, in every window."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import vjax
from vjax import planning, spans
from vjax.models import attention as attentions
from vjax.pipeline import Pipeline
from vjax.spans import Line, Script
from vjax.timeline import Piece, RequestError, Span, Timeline

MODEL = tiny.model(max_frames=17)  # 5 latents, that overlap by 1
TEXTS = ("red", "blue", "circle")


@functools.cache
def pipe() -> Pipeline:
    return Pipeline(tiny.bundle(MODEL))


def shares(bias: np.ndarray, tokens: int) -> np.ndarray:
    """How much each frame hears of each text."""
    return np.exp(bias[:, ::tokens])


# --- Frames --------------------------------------------------------------------------------------


def test_a_latent_hears_each_text_by_its_share_of_its_frames():
    script = Script("", (Line("a", 0, 6), Line("b", 6, 17)), 17)
    (segment,) = planning.plan(Timeline("a", frames=17), MODEL).segments
    frames = [*segment.frames_of(segment.windows[0], 4), *spans.around([5, 5.6]), spans.NEVER]
    assert frames == [(0, 1), (1, 5), (5, 9), (9, 13), (13, 17), (5, 6), (6, 7), (-1, 0)]
    bias = script.bias(script.lines, frames, 4, 3)
    assert bias.shape == (8, 12)
    # One frame of four in the third latent. Before the result none speaks but the prompt.
    heard = [[0, 1, 0, 0]] * 2 + [[0, 0.25, 0.75, 0]] + [[0, 0, 1, 0]] * 2
    heard += [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]]
    np.testing.assert_allclose(shares(bias, 3), heard, atol=1e-6)
    whole = dataclasses.replace(script, prompt="c")
    found = shares(whole.bias(script.lines, frames, 4, 3), 3)
    np.testing.assert_allclose(found, np.maximum(heard, [1, 0, 0, 0]), atol=1e-6)


def test_a_softened_span_fades_by_the_square_of_the_distance():
    line = Line("a", 10, 20, soften=4)
    found = line.shares(np.array([4, 5, 6, 8, 9, 10, 19, 20, 21, 23, 24]))
    near, half = 1e-3 ** (1 / 16), 1e-3 ** (1 / 4)
    np.testing.assert_allclose(
        found, [0, 0, 1e-3, half, near, 1, 1, near, half, 1e-3, 0], atol=1e-9
    )
    hard = Line("a", 10, 20).shares(np.array([9, 10, 19, 20]))
    np.testing.assert_array_equal(hard, [0, 1, 1, 0])


def test_a_loop_hears_its_start_after_its_end():
    loop = Script("", (Line("a", 0, 4), Line("b", 4, 8)), 8, loop=True)
    bias = loop.bias(loop.lines, [(4, 8), (8, 12)], 3, 1)
    np.testing.assert_array_equal(np.exp(bias), [[0, 0, 1], [0, 1, 0]])
    straight = dataclasses.replace(loop, loop=False)
    np.testing.assert_array_equal(np.exp(straight.bias(loop.lines, [(8, 12)], 3, 1)), [[0, 0, 1]])


def test_nothing_fades_over_a_cut():
    said = (Span("a", 0, 1, 0.5), Span("b", 1, 2, 0.5, cut=True), Span("c", 2, None, 0.5))
    lines = planning.plan(Timeline("", spans=said, frames=24, fps=8), MODEL).script.lines
    found = [np.flatnonzero(line.shares(np.arange(24))).tolist() for line in lines]
    assert found == [list(range(8)), list(range(8, 20)), list(range(12, 24))]


def test_a_softened_span_of_a_loop_fades_over_its_seam():
    loop = Script("a", (Line("b", 0, 4, soften=3), Line("c", 12, 16, soften=3)), 16, loop=True)
    found = [shares(loop.bias(loop.lines, [(n, n + 1)], 3, 1), 1)[0, 1:] for n in range(16)]
    b, c = np.transpose(found)
    assert (b[13:] > 0).all()
    assert (c[:3] > 0).all()
    np.testing.assert_allclose(b, np.roll(c, 4), atol=1e-6)
    np.testing.assert_allclose(b[[15, 14, 13, 12]], b[[4, 5, 6, 7]], atol=1e-6)
    assert loop.within([(13, 14)]) == loop.lines
    assert dataclasses.replace(loop, loop=False).within([(13, 14)]) == loop.lines[1:]


def test_the_shots_of_a_span_share_its_time():
    told = (Span("red. Cut to: blue", 0, 1, name="Card 1"), Span("circle", 1, cut=True))
    timeline = Timeline("", spans=told, frames=16)
    script = planning.plan(timeline, MODEL).script
    assert [line[:3] for line in script.lines] == [
        ("red.", 0, 4),
        ("blue", 4, 8),
        ("circle", 8, 16),
    ]
    assert script.cuts == (4, 8)
    assert script.notes == (
        "Card 1 has 2 shots, with a cut to each: 0 to 0.5 s: 'red.'; 0.5 to 1 s: 'blue'.",
    )
    said = dataclasses.replace(timeline, prompt="red. Cut to: blue", spans=told[1:])
    assert "its shots are not cut" in planning.plan(said, MODEL).notes[0]
    with pytest.raises(RequestError, match="Card 1 has 2 shots, but 1 frame is to be made"):
        planning.plan(dataclasses.replace(timeline, fps=1.0, frames=3), MODEL)


@pytest.mark.parametrize(
    ("timeline", "message"),
    [
        (Timeline("a", spans=(Span("b", 2.0),)), r"text 'b' begins .* 2 seconds.* ends at 1.125"),
        (Timeline("a", spans=(Span("b", 0, 3, name="Card 1"),)), "Card 1 speaks until 3 seconds"),
        (Timeline("a", spans=(Span("b", 1.0, 1.01),)), "less than a frame at 8 frames a second"),
        (Timeline(" ", spans=(Span("b", 0.5),)), "Nothing says what is shown from 0 seconds on"),
        (
            Timeline("", spans=(Span("b", 0, 0.5), Span("b", 0.75))),
            "Nothing says what is shown from 0.5 seconds on",
        ),
    ],
)
def test_spans_that_do_not_fit_the_result_are_refused(timeline, message):
    with pytest.raises(RequestError, match=message):
        planning.plan(timeline, MODEL)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("",), "empty text"),
        (("a", -1.0), "has the time -1"),
        (("a", 0.0, float("inf")), "has the time inf"),
        (("a", 0.0, None, float("nan")), "has the time nan"),
        (("a", 2.0, 2.0), "ends at 2 seconds and begins at 2"),
    ],
)
def test_a_span_that_is_none_is_refused(values, message):
    with pytest.raises(RequestError, match=message):
        Span(*values)


def test_a_timeline_says_its_spans_and_words_of_them_are_warned_of():
    timeline = Timeline(
        "a circle", spans=(Span("a dragon", 0, 0.5), Span("red " * 9, 0.5, None, 1))
    )
    assert timeline.describe().splitlines()[1:3] == [
        "said    0 s to 0.5 s: a dragon",
        f"said    0.5 s to the end, softened over 1 s: {'red ' * 9}",
    ]
    unknown, long = planning.plan(timeline, MODEL, tiny.tokenizer()).warnings
    assert "dragon" in unknown
    assert "longer than the 32 tokens" in long
    shots = Timeline("a red circle. Cut to: a blue star. Cut to: a dragon", source_prompt="x" * 40)
    unknown, long = planning.plan(shots, MODEL, tiny.tokenizer()).warnings
    assert "cut" not in unknown
    assert long.startswith("The source prompt is longer")


# --- Windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [16, 17, 18, 33, 49])
@pytest.mark.parametrize("before", [False, True])
def test_each_span_hears_its_own_text_in_every_window(frames, before):
    cuts = [0, frames // 3, 2 * frames // 3, frames]
    said = tuple(
        Span(text, start / 8, end / 8)
        for text, start, end in zip(TEXTS, cuts, cuts[1:], strict=False)
    )
    given = vjax.extend(tiny.clip(5), "a", frames=frames, before=before)
    timelines = [Timeline("a", frames=frames, spans=said), dataclasses.replace(given, spans=said)]
    embedded = dict(zip(("a", *TEXTS), np.asarray(pipe().embed(["a", *TEXTS])), strict=True))

    for timeline in timelines:
        plan, seen = conditions(timeline)
        assert len(seen) == plan.windows
        assert len({condition.text.shape for condition in seen}) == 1
        windows = [(s, w) for s in plan.segments for w in s.windows]
        for condition, (segment, _window) in zip(seen, windows, strict=True):
            texts = np.asarray(condition.text[0]).reshape(-1, 32, 16)
            heard = shares(np.asarray(condition.text_bias[0]), 32)
            np.testing.assert_array_equal(texts[0], embedded["a"])
            np.testing.assert_array_equal(heard[:, 0], 1)
            positions = np.concatenate([condition.positions[0], condition.anchor_positions[0]])
            for position, row in zip(positions, heard, strict=True):
                frame = min(segment.start + round(4 * float(position)), frames - 1)
                most = embedded[TEXTS[np.searchsorted(cuts, frame, side="right") - 1]]
                # The last of its frames is heard; whatever else is, has some of the others.
                (found,) = [i for i, text in enumerate(texts) if i and (text == most).all()]
                assert row[found] >= 0.25
                assert np.isclose(row[1:].sum(), 1)
            assert (
                condition.negative[0] == jnp.tile(condition.negative[0, :32], (len(texts), 1))
            ).all()


def test_without_spans_the_program_is_what_it_was(monkeypatch):
    def never(*_):
        raise AssertionError("a bias is added")

    monkeypatch.setattr(attentions, "_biased", never)
    seen = []

    class Watched(Pipeline):
        def _sample(self, condition, *rest):
            seen.append(condition)
            return super()._sample(condition, *rest)

    plan = pipe().plan(vjax.text("red", frames=1))
    Watched(tiny.bundle(MODEL))(plan, steps=1)
    assert (plan.texts, seen[0].text.shape, seen[0].text_bias) == (1, (1, 32, 16), None)
    assert len(jax.tree.leaves(seen[0])) == 7


# --- Shots ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "shots"),
    [
        ("a circle. Cut to a star; then cut to: a ring", ["a circle.", "a star", "a ring"]),
        ("a red circle. cut to: the red circle grows.", ["a red circle.", "the red circle grows."]),
        ("He says \"no.\" Next shot: a door\ncut to b", ['He says "no."', "a door", "b"]),
        ("a man, CUT TO: a dog", ["a man", "a dog"]),
        ("hair cut to the shoulders, cut to size", ["hair cut to the shoulders, cut to size"]),
        ("Cut to a dog. Cut to.", ["a dog."]),
    ],
)  # fmt: skip
def test_a_sentence_that_begins_with_cut_to_is_a_shot(prompt, shots):
    assert spans.shots(prompt) == shots


def conditions(timeline: Timeline):
    """A plan, and what each of its windows knows."""
    seen = []

    class Watched(Pipeline):
        def _sample(self, condition, *rest):
            seen.append(condition)
            return np.zeros(condition.source.shape, np.float32)

    made = Watched(tiny.bundle(MODEL))
    plan = made.plan(timeline)
    made(plan)
    return plan, seen


@pytest.mark.parametrize("frames", [16, 33, 50])
def test_shots_are_equally_long_and_each_is_made_of_its_own_text_alone(frames):
    plan, seen = conditions(vjax.text("red. Cut to blue. Cut to: circle", frames=frames))
    starts = [0, -(-frames // 3), -(-2 * frames // 3)]
    assert [segment.first for segment in plan.segments] == starts
    assert [segment.start for segment in plan.segments] == starts  # a grid of its own
    assert [line.text for line in plan.script.lines] == ["red.", "blue.", "circle"]
    texts = np.asarray(pipe().embed(["red.", "blue.", "circle", ""]))
    at = 0
    for segment, text in zip(plan.segments, texts, strict=False):
        for _ in segment.windows:
            # The program is that of a prompt.
            assert (seen[at].text_bias, seen[at].anchors.shape[1]) == (None, 0)
            np.testing.assert_array_equal(seen[at].text[0], text)
            at += 1
    assert at == len(seen)
    (note,) = plan.notes
    assert f"3 shots, with a cut to each: 0 to {starts[1] / 8:.4g} s: 'red.'" in note


def test_shots_divide_what_is_made_and_see_nothing_beyond_their_cuts():
    plan, seen = conditions(vjax.extend(tiny.clip(9), "red. Cut to blue", frames=25))
    assert [line[:3] for line in plan.script.lines] == [("red.", 0, 17), ("blue", 17, 25)]
    assert [(s.start, s.first, s.stop) for s in plan.segments] == [(0, 9, 17), (17, 17, 25)]
    assert [c.strength.sum() for c in seen] == [3, 0]
    plan, seen = conditions(vjax.infill(tiny.clip(30), "red. Cut to blue", keep=[(8, 22)]))
    assert [line[:3] for line in plan.script.lines] == [("red.", 0, 15), ("blue", 15, 30)]
    assert [(c.strength.sum(), c.anchors.shape[1]) for c in seen] == [(0, 1), (2, 0)]
    assert [s.start for s in plan.segments] == [0, 17]
    plan = planning.plan(vjax.extend(tiny.clip(8), "red. Cut to blue", seconds=2), MODEL)
    assert "1 to 2 s: 'red.'; 2 to 3 s: 'blue'" in " ".join(plan.notes)  # what is given is not made


@pytest.mark.parametrize(
    ("count", "own", "wanted", "cuts"),
    [
        (16, 8, 16, (16,)),
        (16, 8, 24, (24,)),
        (24, 24, 30, (15,)),
        (9, 8, 16, (9,)),
        (16, 8, 64, (64,)),
    ],
)
def test_shots_of_what_is_interpolated_are_cut_where_they_were(count, own, wanted, cuts):
    told = {"fps": float(wanted), "fps_in": float(own)}
    timeline = vjax.interpolate(tiny.clip(count), "red. Cut to: blue", **told)
    assert planning.plan(timeline, MODEL).script.cuts == cuts


def test_other_words_make_other_shots_of_the_same_frames():
    plan = planning.plan(vjax.text("red", frames=16), MODEL)
    cut = planning.reworded(plan, "red. Cut to blue", MODEL)
    assert (len(plan.segments), len(cut.segments), cut.script.cuts) == (1, 2, (8,))
    with pytest.raises(RequestError, match="the same cuts"):
        pipe().sample_batch([plan.timeline, cut.timeline], [0, 1])
    clips = np.stack([tiny.clip(16)])
    made = pipe().sample_batch([cut.timeline], [0], start=(clips, 0.001), steps=1)
    truth = [
        np.asarray(
            pipe().decode(
                pipe().encode(
                    np.pad(
                        clips[:, at : at + 8], ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)), mode="edge"
                    )
                )
            )
        )[0, :8]
        for at in (0, 8)
    ]
    truth = np.clip(np.round((np.concatenate(truth) + 1) * 127.5), 0, 255)
    assert np.abs(made[0, :8] - truth[:8]).mean() < 3


@pytest.mark.parametrize(
    ("timeline", "message"),
    [
        (vjax.loop("red. Cut to blue", frames=8), "A loop goes on and on and has no cuts"),
        (vjax.text("a. Cut to b. Cut to c", frames=2), "3 shots, but 2 frames"),
    ],
)
def test_shots_that_cannot_be_made_are_refused(timeline, message):
    with pytest.raises(RequestError, match=message):
        planning.plan(timeline, MODEL)
    every = Timeline("red. Cut to blue", (Piece(tiny.clip(3)),))
    assert planning.plan(every, MODEL).script.lines == ()  # nothing is made


# --- Networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocked", [False, True])
def test_what_a_frame_does_not_hear_changes_nothing_of_it(blocked, monkeypatch):
    if blocked:
        monkeypatch.setattr(attentions, "BATCHED_UP_TO", 0)
        monkeypatch.setattr(attentions, "BLOCK", 2 * 4 * 6)  # two frames at a time, of three
    key = functools.partial(jax.random.normal, jax.random.key(0))
    q, k, v = key((2, 3, 4, 2, 8)), key((2, 6, 2, 8)), 1 + key((2, 6, 2, 8))
    bias = np.full((2, 3, 6), -np.inf, np.float32)
    bias[:, 0, :3], bias[:, 1, 3:], bias[:, 2] = 0, 0, np.log([0.25] * 3 + [0.75] * 3)
    run = functools.partial(attentions.attention, bias=jnp.asarray(bias))
    out = run(q, k, v)
    for text, frame in ((slice(0, 3), 0), (slice(3, 6), 1)):
        alone = jax.nn.dot_product_attention(q[:, frame], k[:, text], v[:, text])
        np.testing.assert_allclose(out[:, frame], alone, atol=1e-5)
    others = run(q, k.at[:, 3:].set(100.0), v.at[:, 3:].add(7))
    np.testing.assert_array_equal(others[:, 0], out[:, 0])  # exactly
    assert np.abs(others[:, 1:] - out[:, 1:]).min() > 1e-3
    plain = jax.nn.dot_product_attention(q[:, 2], k, v, bias=jnp.asarray(bias[:, None, 2:]))
    np.testing.assert_allclose(out[:, 2], plain, atol=1e-5)
    slope = jax.grad(lambda v: jnp.sum(run(q, k, v)[:, 0]))(v)
    assert np.isfinite(slope).all()
    assert not slope[:, 3:].any()


def test_one_text_over_all_of_it_is_the_prompt():
    plain = pipe()(vjax.text("a red circle", frames=5, negative="blue"), seed=1)
    spoken = Timeline("", negative="blue", frames=5, spans=(Span("a red circle"),))
    assert np.abs(pipe()(spoken, seed=1).astype(int) - plain).max() <= 1
    other = Timeline(
        "", negative="blue", frames=5, spans=(Span("a red circle", 0, 0.25), Span("a", 0.25))
    )
    assert np.abs(pipe()(other, seed=1).astype(int) - plain).max() > 1


def test_a_texts_embedding_is_that_which_it_has_alone():
    together = np.asarray(pipe().embed(["a", *TEXTS]))
    for text, found in zip(("a", *TEXTS), together, strict=True):
        np.testing.assert_allclose(found, pipe().embed([text, ""])[0], atol=1e-6)
