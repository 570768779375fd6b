"""VideoDiT against itself where paths must agree."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import repeat

from vjax import models
from vjax.config import DiTConfig

SMALL = DiTConfig(
    width=32,
    depth=2,
    heads=2,
    head_dim=16,
    ffn=48,
    in_channels=3,
    out_channels=5,
    text_width=8,
    frequency_dim=16,
    anchors=True,
    remat=False,
)
T = jnp.array([0.3, 0.8])


def random_params(config: DiTConfig) -> dict:
    """Parameters away from their initial zeros, so that every path carries a signal."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: (0.3 * rng.normal(size=x.shape)).astype(x.dtype), models.abstract(config)
    )


@functools.partial(jax.jit, static_argnames="config")
def velocity(params, latents, t, text, anchors=None, anchor_positions=None, *, config=SMALL):
    return models.bind(config, params)(
        latents,
        t,
        text,
        positions=jnp.arange(latents.shape[1], dtype=jnp.float32),
        anchors=anchors,
        anchor_positions=anchor_positions,
    )


@pytest.fixture(scope="module")
def params():
    return random_params(SMALL)


@pytest.fixture(scope="module")
def latents():
    return jax.random.normal(jax.random.key(1), (2, 3, 4, 6, 3))


@pytest.fixture(scope="module")
def text():
    return jax.random.normal(jax.random.key(2), (2, 5, 8))


def test_time_means_the_same_at_every_granularity(params, latents, text):
    per_clip = velocity(params, latents, T, text)
    per_frame = velocity(params, latents, repeat(T, "b -> b t", t=3), text)
    np.testing.assert_allclose(per_frame, per_clip, atol=1e-4)
    per_latent = repeat(T, "b -> b t h w", t=3, h=4, w=6)
    np.testing.assert_allclose(velocity(params, latents, per_latent, text), per_clip, atol=1e-4)
    # A patch takes its largest time, as `conditioning.per_patch` takes the weakest strength.
    lowered = per_latent.at[:, :, 1::2, ::2].set(0)
    np.testing.assert_allclose(velocity(params, latents, lowered, text), per_clip, atol=1e-4)
    assert np.abs(velocity(params, latents, 0 * per_latent, text) - per_clip).max() > 1e-2
    assert np.abs(velocity(params, latents, T + 0.1, text) - per_clip).max() > 1e-2


def test_a_loop_over_blocks_gives_what_unrolled_ones_do(params, latents, text):
    @functools.partial(jax.jit, static_argnames="unroll")
    def run(params, unroll):
        return models.bind(SMALL, params)(
            latents, T, text, positions=jnp.arange(3.0), unroll=unroll
        )

    for unroll, blocks in ((False, 1), (True, SMALL.depth)):
        assert f"unroll={blocks}" in str(run.trace(params, unroll=unroll).jaxpr)
    np.testing.assert_allclose(run(params, unroll=False), run(params, unroll=True), atol=1e-5)


def test_loops_of_both_branches_have_the_gradients_of_unrolled_ones(latents, text):
    config = dataclasses.replace(
        SMALL, depth=4, control_channels=2, control_blocks=(0, 2), remat=True
    )
    control = latents[..., :2]

    @functools.partial(jax.jit, static_argnames="unroll")
    def run(params, unroll):
        def loss(params):
            network = models.bind(config, params)
            given = {"positions": jnp.arange(3.0), "control": control, "unroll": unroll}
            return jnp.sum(jnp.sin(network(latents, T, text, **given)))

        return jax.grad(loss)(params)

    unrolled, looped = (run(random_params(config), unroll=unroll) for unroll in (True, False))
    for found, wanted in zip(*map(jax.tree.leaves, (looped, unrolled)), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_no_hint_of_the_control_branch_waits_in_memory():
    def held(count):
        blocks = tuple(range(0, 2 * count, 2))
        config = dataclasses.replace(
            SMALL, depth=2 * count, control_channels=3, control_blocks=blocks
        )

        def run(params, latents, t, text):
            given = {"positions": jnp.arange(5.0), "control": latents, "unroll": False}
            return models.bind(config, params)(latents, t, text, **given)

        shapes = [
            jax.ShapeDtypeStruct(x, jnp.float32) for x in ((2, 5, 16, 16, 3), (2,), (2, 5, 8))
        ]
        compiled = jax.jit(run).lower(models.abstract(config), *shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert held(6) - held(2) < 4 * 2 * 5 * 64 * SMALL.width  # bytes of one


def test_anchors_inform_the_video(params, latents, text):
    anchors = jax.random.normal(jax.random.key(3), (2, 2, 4, 6, 3))
    times = jnp.array([[7.0, -2.0], [1.5, 4.0]])
    plain = velocity(params, latents, T, text)
    known = velocity(params, latents, T, text, anchors, times)
    assert known.shape == plain.shape
    assert np.abs(known - plain).max() > 1e-2
    # Their order means nothing, their position does.
    swapped = velocity(params, latents, T, text, anchors[:, ::-1], times[:, ::-1])
    np.testing.assert_allclose(swapped, known, atol=1e-4)
    moved = velocity(params, latents, T, text, anchors, times + 1)
    assert np.abs(moved - known).max() > 1e-2
    # No anchors are as good as none given.
    empty = velocity(params, latents, T, text, anchors[:, :0], times[:, :0])
    np.testing.assert_array_equal(empty, plain)


def test_an_anchor_is_a_clean_frame_and_its_embedding(params, latents, text):
    params = params | {"anchor_embed": jnp.zeros_like(params["anchor_embed"])}
    t = jnp.array([[0.3, 0.8, 0.0]] * 2)
    whole = velocity(params, latents, t, text)
    split = velocity(params, latents[:, :2], t[:, :2], text, latents[:, 2:], jnp.full((2, 1), 2.0))
    np.testing.assert_allclose(split, whole[:, :2], atol=1e-4)


def test_scan_equals_a_loop_and_remat_changes_no_gradient(params, latents, text, monkeypatch):
    """As accelerators run it (scanned, rematerialised) and as a CPU does (neither)."""

    def loss(params, config):
        return jnp.mean(jnp.square(velocity(params, latents, T, text, config=config)))

    cpu, cpu_grads = jax.value_and_grad(loss)(params, SMALL)
    for module in ("layers", "attention", "dit"):
        monkeypatch.setattr(f"vjax.models.{module}.platform", lambda: "tpu")
    scanned = dataclasses.replace(SMALL, remat=True)
    assert "scan" in str(jax.make_jaxpr(lambda p: loss(p, scanned))(params))
    tpu, tpu_grads = jax.value_and_grad(loss)(params, scanned)
    np.testing.assert_allclose(tpu, cpu, rtol=1e-5)
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path(tpu_grads), jax.tree.leaves(cpu_grads), strict=True
    ):
        largest = np.abs(theirs).max()
        assert largest > 0 or path[0].key == "anchor_embed", path
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * largest, err_msg=str(path))


def test_bfloat16_follows_float32(params, latents, text):
    half = velocity(params, latents.astype(jnp.bfloat16), T, text)
    assert half.dtype == jnp.bfloat16
    exact = velocity(params, latents, T, text)
    assert np.abs(half.astype(jnp.float32) - exact).max() < 0.1 * np.abs(exact).max()


def test_bfloat16_tells_late_times_apart(params, latents, text):
    """Both are 1 once they are rounded."""
    half = latents.astype(jnp.bfloat16)
    late, last = (velocity(params, half, jnp.full(2, t), text) for t in (0.99839, 1.0))
    late, last = (np.asarray(x, np.float32) for x in (late, last))
    assert jnp.bfloat16(0.99839) == 1
    assert np.abs(late - last).max() > 0.01 * np.abs(last).max()


def test_times_and_positions_are_not_rounded_within_products(params, latents, text):
    anchors = latents[:, :1].astype(jnp.bfloat16), jnp.zeros((2, 1))
    lowered = velocity.lower(params, latents.astype(jnp.bfloat16), T, text, *anchors)
    products = [line for line in lowered.as_text().splitlines() if "stablehlo.dot_general" in line]
    exact = [line for line in products if re.search(r": \(tensor<[^>]*xf32>", line)]
    # The frequencies of times, three of positions, three layers.
    assert len(exact) == 7
    assert len(products) > len(exact)
    assert [line for line in exact if "HIGHEST, HIGHEST" not in line] == []


LARGE = DiTConfig(width=5120, depth=40, heads=40, ffn=13824)


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (DiTConfig(), 1.4190),
        (LARGE, 14.2885),
        (dataclasses.replace(LARGE, in_channels=36, image_width=1280), 16.3949),
        (DiTConfig(control_channels=96, control_blocks=tuple(range(0, 30, 2))), 2.1540),
        (DiTConfig(frame_rates=(16.0, 24.0)), 1.4355),
    ],
)
def test_published_sizes(config, billions):
    shapes = jax.tree.leaves(models.abstract(config))
    assert sum(math.prod(x.shape) for x in shapes) / 1e9 == pytest.approx(billions, abs=1e-4)


def test_starts_at_zero_velocity(latents, text):
    params = models.init(SMALL, jax.random.key(0))
    assert not np.any(velocity(params, latents, T, text))
    # Layers of one stack start apart.
    kernel = params["blocks"]["ffn"]["up"]["kernel"]
    assert not np.array_equal(kernel[0], kernel[1])


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({"image_width": 6}, {}, "This DiT needs image, and none is given"),
        ({}, {"image": (2, 4, 6)}, "takes no image, and one is given"),
        ({"image_width": 6, "image_tokens": 5}, {"image": (2, 4, 6)}, "5 tokens of images, not"),
        ({"control_channels": 6, "control_blocks": (0,)}, {}, "needs control, and none"),
        ({}, {"control": (2, 3, 4, 6, 6)}, "takes no control"),
        (
            {"control_channels": 6, "control_blocks": (0,)},
            {"control": (2, 4, 4, 6, 6)},
            "Control has 4 frames, more than the 3",
        ),
        ({"in_channels": 5}, {}, "takes 5 channels, and 3 of latents and 0 of what is known"),
        ({}, {"channels": (2, 3, 4, 6, 1)}, "takes 3 channels, and 3 of latents and 1 of what"),
        ({"frame_rates": (16.0,)}, {}, "needs frame_rate, and none"),
    ],
)
def test_inputs_that_a_model_lacks_or_cannot_take_are_refused(
    changes, given, message, latents, text
):
    config = dataclasses.replace(SMALL, **changes)
    network = models.bind(config, models.abstract(config))
    given = {name: jnp.ones(shape) for name, shape in given.items()}
    with pytest.raises(ValueError, match=message):
        network(latents, T, text, positions=jnp.arange(3.0), **given)
