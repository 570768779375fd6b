"""Larger videos: as many frames as given, in tiles whose edges do not show."""

import dataclasses

import clips
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import vjax
from vjax import planning, video
from vjax.pipeline import Pipeline
from vjax.tiles import Tiles, tiled, tiles_of, weights
from vjax.timeline import RequestError

MODEL = tiny.model(max_frames=17)  # up to 64 pixels a side; tiles are 32x32, four latents a side
PIPE = Pipeline(tiny.bundle(MODEL))


# --- Tiles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", range(72, 200, 8))
def test_tiles_of_one_size_cover_all_and_count_as_one_everywhere(side):
    tiles = tiles_of(MODEL, 32, side)
    assert tiles.columns == (0,)
    assert (tiles.height, tiles.width) == (4, 4)
    assert tiles.rows[0] == 0
    assert tiles.rows[-1] + tiles.height == side // 8
    assert all(1 <= step <= 2 for step in np.diff(tiles.rows))  # half of each lies over the next
    total = np.zeros(side // 8)
    for start, share in zip(tiles.rows, weights(4, tiles.rows), strict=True):
        total[start : start + 4] += share
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert tiles_of(MODEL, 64, 64) is None


TILES = Tiles(8, 6, (0, 4, 9), (0, 3, 6))


def known(latents: jax.Array) -> dict:
    return {"anchors": latents[:, :1], "positions": jnp.zeros(latents.shape[1])}


@pytest.mark.parametrize("axes", [(), (1, 2)])
def test_what_asks_each_place_alone_is_the_same_in_tiles(axes):
    latents = jax.random.normal(jax.random.key(0), (2, 3, 17, 12, 4))
    t = jax.random.uniform(jax.random.key(1), (2, 3, *([17, 12] if axes else [])))

    def velocity(x, t, text, *, anchors, positions):
        times = t[..., None] if axes else t[:, :, None, None, None]
        return x * times + anchors + text

    text = jnp.float32(0.5)
    whole = velocity(latents, t, text, **known(latents))
    found = jax.jit(tiled(velocity, TILES))(latents, t, text, **known(latents))
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_tiles_that_disagree_leave_no_step_at_their_edges():
    tiles = tiles_of(tiny.model(width=96, height=96, max_side=96), 320, 320)
    latents = jax.random.normal(jax.random.key(0), (1, 1, 40, 40, 1))

    def tone(x, t, text, **_):  # each tile has a tone of its own
        return jnp.full_like(x, jnp.mean(x))

    found = tiled(tone, tiles)(latents, jnp.zeros((1, 1)), jnp.zeros(1), **known(latents))[
        0, 0, ..., 0
    ]
    span = float(found.max() - found.min())
    assert span > 0
    for axis in (0, 1):  # a ramp over an overlap of four latents and more
        assert np.abs(np.diff(found, axis=axis)).max() < 0.35 * span
    flat = tiled(tone, tiles)(
        jnp.ones_like(latents), jnp.zeros((1, 1)), jnp.zeros(1), **known(latents)
    )
    np.testing.assert_allclose(flat, 1, rtol=1e-5)


# --- The verb ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 30])
def test_as_many_frames_come_out_as_go_in(count):
    timeline = vjax.upscale(clips.ramp(count, 32, 32), "a", size=(64, 64), fps_in=8)
    plan = planning.plan(timeline, MODEL)
    assert (plan.frames, plan.size, plan.fps, plan.tiles) == (count, (64, 64), 8, None)
    assert plan.blur == 4
    pixels, strength = plan.canvas.cut(0, count)
    assert clips.numbers(pixels) == list(range(count))
    np.testing.assert_allclose(strength, 0.65)
    assert len(PIPE(plan, steps=8)) == count
    assert any("only its tones are kept" in note for note in plan.notes)


def test_one_tile_has_the_bytes_of_no_tiling():
    latents = jax.random.normal(jax.random.key(0), (2, 3, 17, 12, 4))
    t, text = jnp.full((2, 3), 0.3), jnp.float32(0.5)

    def velocity(x, t, text, *, anchors, positions):
        return jnp.sin(x) * t[:, :, None, None, None] + anchors.mean() + text

    whole = jax.jit(velocity)(latents, t, text, **known(latents))
    found = jax.jit(tiled(velocity, Tiles(17, 12, (0,), (0,))))(latents, t, text, **known(latents))
    np.testing.assert_array_equal(found, whole)


def test_every_tile_sees_the_whole_of_a_reference():
    latents = jax.random.normal(jax.random.key(0), (1, 1, 17, 12, 4))
    tiles = dataclasses.replace(TILES, references=1)

    def velocity(x, t, text, *, anchors, positions):
        return jnp.broadcast_to(anchors[:, 1:].sum((2, 3), keepdims=True), x.shape)

    seen = jnp.concatenate([latents, latents], axis=1)
    found = tiled(velocity, tiles)(
        latents, jnp.zeros((1, 1)), jnp.float32(0), anchors=seen, positions=jnp.zeros(1)
    )
    corner = latents[:, :, : TILES.height, : TILES.width].sum((2, 3), keepdims=True)
    np.testing.assert_allclose(found, jnp.broadcast_to(corner, found.shape), rtol=1e-5)
    given, picture = tiny.clip(1, 24, 32), tiny.clip(1, 40, 40)[0]
    asked = {"size": (96, 72), "fps_in": 8}
    plain = PIPE(vjax.upscale(given, "a", **asked), steps=3)
    drawn = vjax.upscale(given, "a", character=[picture], **asked)
    assert PIPE.plan(drawn).tiles.references == 1
    assert not np.array_equal(PIPE(drawn, steps=3), plain)


def test_what_is_larger_than_the_model_makes_is_made_in_tiles():
    timeline = vjax.upscale(tiny.clip(18, 24, 32), "a", size=(96, 72), fps_in=8)
    plan = PIPE.plan(timeline)
    assert (plan.windows, len(plan.tiles)) == (2, 20)
    assert any("20 tiles of 32x32" in note for note in plan.notes)
    made = PIPE(plan, steps=8, seed=1)
    assert made.shape == (18, 72, 96, 3)
    assert PIPE(plan, steps=8, seed=1).tobytes() == made.tobytes()
    assert not np.array_equal(PIPE(plan, steps=8, seed=2), made)


def test_prompt_rate_and_sound_are_the_files_own(tmp_path):
    sound = video.Sound(np.arange(8000, dtype=np.int16)[:, None], 8000)
    made = {"request": {"verb": "text", "prompt": "a red circle"}}
    video.write(tmp_path / "a.mkv", tiny.clip(12), 12, sound=sound, metadata=made)
    plan = PIPE.plan(vjax.upscale(tmp_path / "a.mkv", size=(96, 96)))
    assert plan.timeline.prompt == "a red circle"
    assert (plan.frames, plan.fps) == (12, 12)
    heard = video.arranged(plan.kept, plan.frames / plan.fps)
    np.testing.assert_array_equal(heard.samples, sound.samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "how large"),
        ({"size": (96, 92)}, "multiples of 8 from 16 to 16384. The nearest is 96x96"),
        ({"size": (24, 24)}, "smaller than the video, which is 32x32"),
        ({"size": (96, 64)}, "another shape .* choose 96x96 or 64x64"),
        ({"size": (32768, 32768)}, "from 16 to 16384"),
        ({"size": (64, 64), "strength": 0}, "between 0 and 1"),
        ({"size": (64, 64), "strength": 1}, "between 0 and 1"),
        ({"size": (64, 64), "prompt": ""}, "does not say what it shows"),
    ],
)
def test_what_cannot_be_enlarged_is_refused(options, message):
    prompt = options.pop("prompt", "a")
    with pytest.raises(RequestError, match=message):
        planning.plan(vjax.upscale(tiny.clip(2), prompt, **options), MODEL)
