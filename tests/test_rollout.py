"""The tone of flat videos: what is made beside, over or in place of them has it too.

The VAE of these tests keeps the mean of each latent exactly, and the model answers truly, so that
all that could change a tone is how both are used.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from einops import reduce, repeat

import vjax
from vjax import coding, models
from vjax.pipeline import Pipeline
from vjax.timeline import as_frames

GRAY = 100


class Exact(Pipeline):
    """Latents are mean pixels, from 0 to 1."""

    def encode_pixels(self, frames):
        sides = {"p": 8, "q": 8}
        small = reduce(np.float64(frames[:]) / 255, "t (h p) (w q) c -> t h w", "mean", **sides)
        rest = reduce(small[1:], "(t r) h w -> t h w", "mean", r=4)
        return repeat(np.concatenate([small[:1], rest]), "t h w -> t h w c", c=4).astype(np.float32)

    def decode_next(self, latents, past):
        frames = repeat(latents.mean(-1), "b t h w -> b (t r) (h p) (w q) c", r=4, p=8, q=8, c=3)
        count = 1 if past is None else 4
        return jnp.asarray(np.rint(frames[:, :count] * 255).astype(np.uint8)), jnp.zeros(1)


@pytest.fixture
def pipe(monkeypatch, request):
    gray = getattr(request, "param", GRAY)

    def truly(latents, t, *_, **__):
        t = jnp.asarray(t)
        t = t.reshape(*t.shape, *[1] * (latents.ndim - t.ndim))
        return jnp.where(t > 0, (latents - np.float32(gray / 255)) / jnp.maximum(t, 1e-6), 0)

    monkeypatch.setattr(models, "velocity", lambda *_, **__: truly)
    # A width that nothing else has: programs are kept by their configs.
    width = 40 + 8 * (gray - GRAY)
    return Exact(tiny.bundle(tiny.model(dit=dataclasses.replace(tiny.MODEL.dit, ffn=width))))


def test_a_flat_clip_extended_four_times_keeps_its_tone(pipe):
    video = np.full((9, 32, 32, 3), GRAY, np.uint8)
    for _ in range(4):
        video = pipe(vjax.extend(video, "a", seconds=1.5), steps=2)
    assert len(video) == 9 + 4 * 12
    np.testing.assert_array_equal(video, GRAY)
    before = pipe(vjax.extend(video[:9], "a", seconds=3, before=True), steps=2)
    np.testing.assert_array_equal(before, GRAY)


@pytest.mark.parametrize("pipe", [GRAY, GRAY + 30], indirect=True)  # truly, and of another tone
@pytest.mark.parametrize("side", [64, 96])  # in one tile, and in several
def test_a_flat_clip_enlarged_keeps_its_tone(side, pipe):
    given = as_frames(np.full((18, 32, 32, 3), GRAY, np.uint8))
    plan = pipe.plan(vjax.upscale(given, "a", size=(side, side), fps_in=8))
    assert (plan.tiles is None) == (side == 64)
    np.testing.assert_array_equal(pipe(plan, steps=4), GRAY)


def test_windows_in_tiles_are_the_same_where_pixels_are_decoded_alone(pipe, monkeypatch):
    ask = vjax.text("a", frames=33)
    assert pipe.plan(ask).windows > 1
    whole = pipe(ask, steps=2)
    monkeypatch.setattr(coding, "OVERLAP", 1)
    pipe._room = 0
    assert pipe.decoding((1, 9, 4, 4, 4)).tiles.rows == (0, 1, 2)
    np.testing.assert_array_equal(pipe(ask, steps=2), whole)
