"""The pipeline: its stages, seeds, kept frames in every verb, and refusals before any compile."""

import dataclasses
import functools
import inspect
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import vjax
from vjax import models, seams, stages, weights
from vjax.models.dit import VideoDiT
from vjax.pipeline import Pipeline
from vjax.progress import Cancelled
from vjax.rollout import SamplingError
from vjax.timeline import Piece, RequestError, Timeline


@functools.cache
def pipe() -> Pipeline:
    return Pipeline(tiny.bundle())


SHORT = vjax.text("a red circle", frames=5)


@functools.cache
def short(seed: int) -> np.ndarray:
    return pipe()(SHORT, seed=seed)


def test_a_pipeline_says_what_it_is():
    shown = repr(Pipeline(tiny.bundle(tiny.model(origin="seed 3", licence="MIT"))))
    assert shown == "<Pipeline tiny: 9 frames of 32x32 at 8 fps, licence MIT, made by seed 3>"


# --- Stages --------------------------------------------------------------------------------------


def test_streamed_stages_equal_whole_ones():
    video = tiny.clip(5)[None].astype(np.float32) / 127.5 - 1
    z = pipe().encode(video)
    assert z.shape == (1, 2, 4, 4, 4)
    decoded = pipe().decode(z)
    assert decoded.shape == (1, 5, 32, 32, 3)

    @jax.jit
    def whole(params, video, z):
        vae = models.bind(tiny.MODEL.vae, params)
        return vae.normalise(vae.encode(video)[0]), vae.decode(vae.denormalise(z))

    expected_z, expected_video = whole(tiny.params()["vae"], video, z)
    np.testing.assert_allclose(z, expected_z, atol=1e-4)
    np.testing.assert_allclose(decoded, expected_video, atol=1e-4)
    np.testing.assert_allclose(pipe().encode(tiny.clip(5)[None]), z, atol=1e-4)  # of its pixels


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 4, 32, 32, 3), "4: give it 1 or 5"), ((1, 5, 36, 32, 3), "multiples of 8")],
)
def test_what_cannot_be_encoded_is_said_in_a_sentence(shape, message):
    with pytest.raises(ValueError, match=message):
        pipe().encode(np.zeros(shape, np.float32))


def test_texts_are_told_apart_and_end_in_zeros():
    text = pipe().embed(["red", "blue", ""])
    assert text.shape == (3, 32, 16)
    assert not text[0, 5:].any()
    assert text[1, 4].any()
    assert not np.allclose(text[0, 0], text[1, 0])
    with pytest.raises(RequestError, match="Texts are a list"):  # not of its letters
        pipe().embed("red")


def test_velocity_takes_time_per_clip_frame_or_position():
    z = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 4))
    text = pipe().embed(["a red circle", "blue"])
    t = jnp.array([0.3, 0.8])
    per_clip = pipe().velocity(z, t, text)
    assert per_clip.shape == z.shape
    per_frame = pipe().velocity(z, jnp.broadcast_to(t[:, None], (2, 2)), text)
    everywhere = jnp.broadcast_to(t[:, None, None, None], z.shape[:4])
    per_position = pipe().velocity(z, everywhere, text)
    np.testing.assert_allclose(per_frame, per_clip, atol=1e-5)
    np.testing.assert_allclose(per_position, per_clip, atol=1e-5)
    other = pipe().velocity(z, everywhere.at[0, 1].set(0), text)
    assert not np.allclose(other[0], per_clip[0], atol=1e-3)
    np.testing.assert_allclose(other[1], per_clip[1], atol=1e-5)


# --- Seeds, noise and variations -----------------------------------------------------------------


def test_the_seed_decides_the_bytes():
    assert short(1).shape == (5, 32, 32, 3)
    assert pipe()(SHORT, seed=1).tobytes() == short(1).tobytes()
    assert not np.array_equal(short(2), short(1))


def test_prompt_and_negative_matter():
    for other in (vjax.text("blue", frames=5), vjax.text("a red circle", negative="a", frames=5)):
        assert not np.array_equal(pipe()(other, seed=1), short(1))


def test_given_noise_takes_the_place_of_the_seed():
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(1), 0), (2, 4, 4, 4))[None]
    np.testing.assert_array_equal(pipe()(SHORT, noise=noise, seed=5), short(1))
    assert not np.array_equal(pipe()(SHORT, noise=-np.asarray(noise), seed=1), short(1))
    with pytest.raises(RequestError, match=r"needs \(1, 2, 4, 4, 4\)"):
        pipe()(SHORT, noise=noise[:, :1])


def test_variations_are_the_videos_of_successive_seeds():
    videos = pipe()(SHORT, seed=1, variations=2)
    assert videos.shape == (2, 5, 32, 32, 3)
    for video, seed in zip(videos, (1, 2), strict=True):
        np.testing.assert_array_equal(video, short(seed))
    assert pipe()(SHORT, seed=1, variations=1).shape == (1, 5, 32, 32, 3)


def test_a_batch_holds_what_its_requests_make_alone():
    prompts = ("blue", "a red circle", "red")
    batch = pipe().sample_batch([vjax.text(p, frames=5) for p in prompts], [2, 1, 2**32 - 1])
    for video, prompt, seed in zip(batch, prompts, (2, 1, 2**32 - 1), strict=True):
        alone = pipe()(vjax.text(prompt, frames=5), seed=seed)
        assert np.abs(video.astype(int) - alone).max() <= 1
    extended = [vjax.extend(tiny.clip(5, seed=s), "red", seconds=0.5) for s in (0, 1)]
    for video, timeline in zip(pipe().sample_batch(extended, [3, 3]), extended, strict=True):
        np.testing.assert_array_equal(video[:5], timeline.pieces[0].pixels)
    with pytest.raises(RequestError, match="made at once have one size"):
        pipe().sample_batch([SHORT, extended[0]], [0, 1])


def test_sampling_starts_from_clips_at_a_time():
    clips = np.stack([tiny.clip(5), tiny.clip(5, seed=1)])

    def made(t):
        return pipe().sample_batch([SHORT] * 2, [1, 2], start=(clips, t)).astype(int)

    near, far = made(0.001), made(0.9)
    truth = np.asarray(pipe().decode(pipe().encode(clips / np.float32(127.5) - 1)))
    truth = np.clip(np.round((truth + 1) * 127.5), 0, 255)
    assert np.abs(near - truth).mean() < 3 < np.abs(far - truth).mean() / 5
    assert np.abs(made(1.0)[0] - short(1)).max() <= 1  # at 1 nothing is left of the clips
    with pytest.raises(RequestError, match="above 0 and up to 1"):
        made(0.0)
    # So with published times, of which none are left.
    sampler = dataclasses.replace(tiny.MODEL.sampler, solver="unipc", schedule="diffusers")
    published = Pipeline(tiny.bundle(dataclasses.replace(tiny.MODEL, sampler=sampler)))
    (video,) = published.sample_batch([SHORT], [1], start=(clips[:1], 0.001))
    assert np.abs(video - truth[0]).mean() < 3
    # Over several windows, what the first has made is what the second goes on from.
    long = vjax.text("a red circle", frames=25)
    assert pipe().plan(long).windows > 1
    (video,) = pipe().sample_batch([long], [1], start=(tiny.clip(25)[None], 1.0))
    assert np.abs(video.astype(int) - pipe()(long, seed=1)).max() <= 1


# --- Loops ---------------------------------------------------------------------------------------


def test_a_loop_is_decoded_from_its_end_on():
    timeline = vjax.loop("a red circle", frames=12)
    video = pipe()(timeline, seed=1)
    assert video.shape == (12, 32, 32, 3)
    # Of the same latents, with their end before their start.
    seen = []

    class Watched(Pipeline):
        def decode_next(self, latents, past):
            seen.append(np.array(latents))
            return super().decode_next(latents, past)

    again = Watched(tiny.bundle())(timeline, seed=1)
    np.testing.assert_array_equal(again, video)
    lead = len(seen) - 3
    for before, after in zip(seen[:lead], seen[-lead:], strict=True):
        np.testing.assert_array_equal(before, after)
    whole = np.asarray(pipe().decode(np.concatenate(seen, axis=1)))[0, -12:]
    expected = np.clip(np.round((whole + 1) * 127.5), 0, 255)
    assert np.abs(expected - video.astype(int)).max() <= 1


def test_what_is_given_of_a_loop_is_seen_after_its_end_and_not_shown():
    clip = tiny.clip(9)
    plan = pipe().plan(vjax.loop("a red circle", clip, seconds=0.5))
    assert plan.frames == 13
    video = pipe()(plan)
    np.testing.assert_array_equal(video[:9], clip)
    (segment,) = plan.segments
    (after,) = segment.clips
    np.testing.assert_array_equal(after.frames(plan.canvas), clip[: after.count])
    assert after.at == 13


def test_a_long_loop_ends_with_its_start_in_sight():
    seen = []

    class Watched(Pipeline):
        def _sample(self, condition, *rest):
            seen.append(condition)
            return super()._sample(condition, *rest)

    video = Watched(tiny.bundle())(vjax.loop("a red circle", frames=30), steps=1)
    assert video.shape == (30, 32, 32, 3)
    assert len(seen) == 2
    assert not any(condition.anchors.shape[1] for condition in seen[:-1])
    assert seen[-1].anchor_positions[0, 0] == 30 / 4


# --- Kept frames ---------------------------------------------------------------------------------

REQUESTS = {
    "animate": vjax.animate(tiny.clip(1)[0], "a red circle"),
    "extend": vjax.extend(tiny.clip(5), "a red circle", seconds=0.5),
    "extend to an odd length": vjax.extend(tiny.clip(6), "a red circle", seconds=0.25),
    "extend before": vjax.extend(tiny.clip(5), "a red circle", seconds=0.5, before=True),
    "infill": vjax.infill(tiny.clip(9), "a red circle", keep=[(0, 3), (-2, 9)]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_kept_frames_come_back_as_given(name):
    plan = pipe().plan(REQUESTS[name])
    video = pipe()(plan, seed=3)
    known, (given, _) = plan.canvas.known, plan.canvas.cut(0, plan.frames)
    assert video.shape == given.shape
    assert 0 < known.sum() < len(video)
    np.testing.assert_array_equal(video[known], given[known])
    for frame in video[~known]:  # made, not left black
        assert frame.std() > 1
    # The same, piece by piece.
    pieces = list(pipe().stream(REQUESTS[name], seed=3))
    assert len(pieces) > 1
    np.testing.assert_array_equal(np.concatenate(pieces), video)


LONG = {
    "text": vjax.text("a red circle", frames=22),
    "after": vjax.extend(tiny.clip(5), "a red circle", seconds=3),
    "before": vjax.extend(tiny.clip(5), "a red circle", seconds=3, before=True),
    "two gaps": vjax.infill(tiny.clip(40), "a red circle", keep=[(0, 5), (20, 35)]),
}


@pytest.mark.parametrize("name", LONG)
def test_windows_carry_latents_exactly_and_the_decoder_never_restarts(name, monkeypatch):
    small = Pipeline(tiny.bundle(tiny.model(max_frames=17)))
    plan = small.plan(LONG[name])
    assert plan.windows > 1
    sampled, made = [], []
    start, sample = small.start, small._sample

    def watch(condition, *arguments):
        sampled.append(condition)
        return start(condition, *arguments)

    def keep(*arguments):
        made.append(sample(*arguments))
        return made[-1]

    monkeypatch.setattr(small, "start", watch)
    monkeypatch.setattr(small, "_sample", keep)
    video = small(plan, seed=3)
    known, (given, _) = plan.canvas.known, plan.canvas.cut(0, plan.frames)
    np.testing.assert_array_equal(video[known], given[known])

    each = zip(sampled, made, strict=True)
    for segment in plan.segments:
        latents = np.full((segment.latents, 4, 4, 4), np.nan, np.float32)
        for window in segment.windows:
            condition, result = next(each)
            np.testing.assert_array_equal(condition.positions[0], range(window.start, window.stop))
            place = latents[window.start : window.stop]
            carried = np.isfinite(place).all(axis=(1, 2, 3))
            kept = np.asarray(condition.strength[0, :, 0, 0, 0]) == 1
            if carried.any() and not carried[0]:  # made from the end on: as anchors
                assert not kept.any()
                at = np.asarray(condition.anchor_positions[0])
                np.testing.assert_array_equal(
                    condition.anchors[0, at >= window.start + carried.argmax()],
                    place[carried][: plan.context],
                )
            elif carried.any():
                np.testing.assert_array_equal(kept, carried)
                np.testing.assert_array_equal(condition.source[0][kept], place[kept])
            place[~carried] = result[0][~carried]
        # What is shown is what the whole latents decode to at once, led to what is given.
        whole = np.asarray(small.decode(latents[None]))[0]
        whole = np.round(127.5 * (np.clip(whole, -1, 1) + 1)).astype(np.uint8)
        shown = whole[segment.first - segment.start : segment.stop - segment.start]
        (shown,) = seams.joined([shown[None]], [plan.canvas], segment.first, plan.cuts)
        unknown = ~known[segment.first : segment.stop]
        found = video[segment.first : segment.stop]
        np.testing.assert_array_equal(found[unknown], shown[0][unknown])


def test_requests_of_several_windows_are_made_again_alike_and_take_no_noise():
    small = Pipeline(tiny.bundle(tiny.model(max_frames=9)))
    heard: list[int] = []
    video = small(LONG["text"], seed=3, on_step=heard.append)
    assert heard == list(range(1, 2 * small.plan(LONG["text"]).windows + 1))
    assert len(np.unique(video.reshape(len(video), -1), axis=0)) == len(video) == 22
    videos = small(LONG["text"], seed=2, variations=2)
    np.testing.assert_array_equal(videos[1], video)
    with pytest.raises(RequestError, match="in one go"):
        small(LONG["text"], noise=np.zeros((1, 3, 4, 4, 4), np.float32))


@pytest.mark.parametrize("given", [False, True])
def test_memory_does_not_grow_with_the_length(given):
    def peak(seconds):
        if given:
            timeline = vjax.extend(tiny.clip(5, 64, 64), "a", seconds=seconds)
        else:
            timeline = vjax.text("a", seconds=seconds, size=(64, 64))
        tracemalloc.start()
        count = sum(len(chunk) for chunk in pipe().stream(timeline, steps=1))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == seconds * 8 + 5 * given
        return peak

    peak(4)  # compiles
    short, frame = peak(4), 64 * 64 * 3
    assert peak(40) - short < 40 * frame  # of 288 frames more; latents are kept


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 6, 9])
def test_any_number_of_frames_is_made_on_the_grid_and_cut(frames):
    video = pipe()(vjax.text("a red circle", frames=frames), seed=1)
    assert len(video) == frames
    grid = pipe()(vjax.text("a red circle", frames=1 + 4 * -(-(frames - 1) // 4)), seed=1)
    np.testing.assert_array_equal(video, grid[:frames])


def test_a_request_with_nothing_to_make_returns_what_is_given():
    timeline = vjax.animate(tiny.clip(1)[0], "a red circle", frames=1)
    np.testing.assert_array_equal(pipe()(timeline), tiny.clip(1))
    assert pipe()(timeline, variations=2).shape == (2, 1, 32, 32, 3)


def test_partial_strength_departs_from_the_source():
    strength = np.full((5, 1, 1, 1), 0.5, np.float32)
    timeline = Timeline("a red circle", (Piece(tiny.clip(5), strength),))
    with pytest.raises(RequestError, match="use euler or heun"):
        pipe()(timeline, solver="unipc")
    one = pipe()(timeline)  # which prefers unipc
    np.testing.assert_array_equal(one, pipe()(timeline, solver="euler"))
    other = Timeline("a red circle", (Piece(tiny.clip(5, seed=2), strength),))
    assert not np.array_equal(pipe()(other), one)


# --- Stopping and refusing -----------------------------------------------------------------------


def test_on_step_watches_and_stops():
    seen = []
    pipe()(SHORT, on_step=seen.append)
    assert seen == [1, 2]
    seen.clear()
    with pytest.raises(Cancelled):
        pipe()(SHORT, on_step=lambda step: seen.append(step) or True)
    assert seen == [1]
    with pytest.raises(Cancelled) as stopped:
        pipe()(SHORT, variations=3, on_step=lambda step: step == 3)  # two steps each
    np.testing.assert_array_equal(stopped.value.finished, pipe()(SHORT, variations=1))


@pytest.mark.parametrize(
    ("timeline", "options", "message"),
    [
        (SHORT, {"steps": 0}, "steps must be a whole number from 1 to 1000"),
        (SHORT, {"solver": "magic"}, "solver must be one of 'unipc', 'euler'"),
        (SHORT, {"variations": 0}, "At least 1 variation"),
        (SHORT, {"seed": -1}, "seed is a whole number"),
        (SHORT, {"seed": 2**32}, "seed is a whole number"),
        (SHORT, {"seed": 2**32 - 1, "variations": 2}, "the last of 2 variations has one"),
        (SHORT, {"noise": np.zeros((1, 2, 4, 4, 5), np.float32)}, "noise has shape"),
        (vjax.text("a", size=(33, 32)), {}, "nearest is 32x32"),
        (SHORT, {"guidance": np.nan}, "guidance must be a finite number"),
        (SHORT, {"guidance": np.inf}, "guidance must be a finite number"),
        (SHORT, {"variations": True}, "At least 1 variation"),
        (SHORT, {"guidance": 1e30}, "from -1000 to 1000"),
        (SHORT, {"shift": 1e30}, "from 0.001 to 1000"),
        (SHORT, {"shift": 0.0}, "shift must be a finite number from 0.001"),
        (SHORT, {"shift": np.nan}, "shift must be a finite number from 0.001"),
        (vjax.text("a", frames=4801), {}, "at most 600 seconds"),
        (vjax.text(""), {}, "prompt is empty"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_compile(timeline, options, message, monkeypatch):
    def compiled(*_, **__):
        raise AssertionError("something was computed")

    for name in ("_embed", "_encode", "_decode", "_noise", "_start", "_advance"):
        monkeypatch.setattr(stages, name, compiled)
    with pytest.raises(RequestError, match=message):
        pipe()(timeline, **options)
    if not {"noise", "variations"} & set(options):
        with pytest.raises(RequestError, match=message):
            pipe().stream(timeline, **options)  # at once, not when the first piece is asked for


def test_options_that_are_none_are_named():
    with pytest.raises(TypeError, match="step is no option of sampling: choose from steps, guid"):
        pipe().stream(SHORT, step=4)


def test_words_that_the_model_cannot_know_are_named():
    assert pipe().plan(vjax.text("A red circle, moves right.")).warnings == ()
    (warning,) = pipe().plan(vjax.text("a red dragon moves; swiftly")).warnings
    assert "dragon, swiftly" in warning
    (warning,) = pipe().plan(vjax.text("a red circle " * 3)).warnings
    assert "longer than the 32 tokens" in warning


# --- Numbers -------------------------------------------------------------------------------------


def test_latents_that_are_no_numbers_stop_with_a_sentence():
    whole = Pipeline(tiny.bundle())
    whole.params["dit"]["head"]["bias"] = jnp.full_like(
        whole.params["dit"]["head"]["bias"], jnp.inf
    )
    with pytest.raises(SamplingError, match="guidance nearer to 2"):
        whole(SHORT)
    with pytest.raises(SamplingError):
        next(whole.stream(SHORT))


def test_a_bundle_that_asks_for_no_steps_is_refused():
    sampler = dataclasses.replace(tiny.MODEL.sampler, steps=0)
    with pytest.raises(RequestError, match="steps must be a whole number from 1 to 1000"):
        Pipeline(tiny.bundle(tiny.model(sampler=sampler)))(SHORT)


def test_half_precision_computes_in_it_and_keeps_times_exact(monkeypatch):
    half, seen = Pipeline(tiny.bundle(), dtype="bfloat16"), []
    assert set(half.params) == {"dit", "vae"}  # the text encoder is there while it is used alone
    assert half.params["dit"]["head"]["kernel"].dtype == jnp.bfloat16
    assert half.params["vae"]["decoder"]["conv_in"]["kernel"].dtype == jnp.float32
    network = VideoDiT.__call__

    def watch(self, latents, t, text, **known):
        seen.append((latents.dtype, t.dtype, text.dtype, known["positions"].dtype))
        return network(self, latents, t, text, **known)

    monkeypatch.setattr(VideoDiT, "__call__", watch)
    video = half(SHORT, seed=1)
    text, z = half.embed(["a red circle"]), half.encode(tiny.clip(5)[None] / np.float32(127.5) - 1)
    v = half.velocity(z, jnp.array([0.5]), text)
    assert len(seen) > 1
    for dtypes in seen:  # of sampling and of the stage alone
        assert [dtype.name for dtype in dtypes] == ["bfloat16", "float32", "bfloat16", "float32"]
    assert {x.dtype.name for x in (text, z, v, half.decode(z))} == {"float32"}
    difference = np.abs(video.astype(int) - short(1))
    assert 0 < difference.mean() < 12
    with pytest.raises(RequestError, match="float32 or bfloat16"):
        Pipeline(tiny.bundle(), dtype="float8")


def test_a_bundle_without_a_network_makes_no_videos():
    with pytest.raises(weights.BundleError, match="no text"):
        Pipeline(tiny.bundle(tiny.model(text=None)))


def test_a_saved_bundle_loads_by_its_directory(tmp_path):
    weights.save(tmp_path / "bundle", tiny.bundle(), dtype="float32")
    loaded = vjax.load(tmp_path / "bundle")
    assert loaded.config == tiny.MODEL
    np.testing.assert_array_equal(loaded(SHORT, seed=1), short(1))


@pytest.mark.parametrize(
    ("timeline", "options", "message"),
    [
        ("a red circle", {}, r"such as vjax.text\(prompt\), got 'a red circle'"),
        (SHORT, {"guidance": "3"}, "guidance must be a finite number"),
        (SHORT, {"solver": ["euler"]}, "solver must be one of"),
        (SHORT, {"shift": "3"}, "shift must be a finite number from 0.001"),
    ],
)
def test_other_types_are_refused_in_a_sentence(timeline, options, message):
    check = inspect.unwrap(Pipeline.check)  # as users call it: tests check types before
    with pytest.raises(RequestError, match=message):
        check(pipe(), timeline, **options)
