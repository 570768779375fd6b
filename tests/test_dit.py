"""VideoDiT against diffusers' WanTransformer3DModel, and against itself where paths must agree."""

import dataclasses
import functools
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange, repeat

from vjax import models
from vjax.config import DiTConfig

WAN = DiTConfig(
    width=24,
    depth=2,
    heads=2,
    head_dim=12,
    ffn=32,
    in_channels=4,
    out_channels=4,
    text_width=16,
    frequency_dim=32,
)
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
# Wan's name for each parameter, as diffusers spells it.
NAMES = {
    "patch_embedding": "patch_embed",
    "condition_embedder.time_embedder.linear_1": "time_embed.up",
    "condition_embedder.time_embedder.linear_2": "time_embed.down",
    "condition_embedder.time_proj": "time_projection",
    "condition_embedder.text_embedder.linear_1": "text_embed.up",
    "condition_embedder.text_embedder.linear_2": "text_embed.down",
    "blocks.attn1.to_q": "blocks.self_attention.q",
    "blocks.attn1.to_k": "blocks.self_attention.k",
    "blocks.attn1.to_v": "blocks.self_attention.v",
    "blocks.attn1.to_out.0": "blocks.self_attention.o",
    "blocks.attn1.norm_q": "blocks.self_attention.q_norm",
    "blocks.attn1.norm_k": "blocks.self_attention.k_norm",
    "blocks.attn2.to_q": "blocks.cross_attention.q",
    "blocks.attn2.to_k": "blocks.cross_attention.k",
    "blocks.attn2.to_v": "blocks.cross_attention.v",
    "blocks.attn2.to_out.0": "blocks.cross_attention.o",
    "blocks.attn2.norm_q": "blocks.cross_attention.q_norm",
    "blocks.attn2.norm_k": "blocks.cross_attention.k_norm",
    "blocks.norm2": "blocks.cross_norm",
    "blocks.ffn.net.0.proj": "blocks.ffn.up",
    "blocks.ffn.net.2": "blocks.ffn.down",
    "blocks.scale_shift_table": "blocks.modulation",
    "scale_shift_table": "head_modulation",
    "proj_out": "head",
}
T = jnp.array([0.3, 0.8])


def wan_params(arrays) -> dict:
    """The nested parameters of `WAN` out of diffusers' flat names."""
    found = {}
    for name in arrays:
        if name.startswith("param/"):
            generic = re.sub(r"blocks\.\d+", "blocks", name.removeprefix("param/"))
            found.setdefault(generic, []).append(arrays[name])  # in the order of their index
    params = {}
    for name, layers in found.items():
        module, leaf = re.fullmatch(r"(.*?)(\.weight|\.bias)?", name).groups()
        if leaf == ".weight":
            leaf = ".scale" if "norm" in module else ".kernel"
        if leaf == ".kernel":
            layers = [rearrange(x, "o ... -> (...) o") for x in layers]
        *path, last = (NAMES[module] + (leaf or "")).split(".")
        node = params
        for part in path:
            node = node.setdefault(part, {})
        node[last] = np.stack(layers) if name.startswith("blocks") else layers[0]
    return params


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


@pytest.mark.parametrize("time", ["t", "token_t"])
def test_equals_wan(time):
    with np.load(pathlib.Path(__file__).parent / "data" / "wan_transformer.npz") as arrays:
        arrays = dict(arrays)
    t = arrays[time] / 1000
    if time == "token_t":
        t = repeat(t, "b (t h w) -> b t (h ph) (w pw)", t=3, h=2, ph=2, pw=2)
    latents = jnp.asarray(rearrange(arrays["latents"], "b c t h w -> b t h w c"))
    ours = velocity(
        wan_params(arrays), latents, jnp.asarray(t), jnp.asarray(arrays["text"]), config=WAN
    )
    theirs = arrays["velocity" if time == "t" else "token_velocity"]
    theirs = rearrange(theirs, "b c t h w -> b t h w c")
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


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


def test_times_and_positions_are_not_rounded_within_products(params, latents, text):
    anchors = latents[:, :1].astype(jnp.bfloat16), jnp.zeros((2, 1))
    lowered = velocity.lower(params, latents.astype(jnp.bfloat16), T, text, *anchors)
    products = [line for line in lowered.as_text().splitlines() if "stablehlo.dot_general" in line]
    exact = [line for line in products if re.search(r": \(tensor<[^>]*xf32>", line)]
    # The frequencies of times, three of positions, three layers.
    assert len(exact) == 7
    assert len(products) > len(exact)
    assert [line for line in exact if "HIGHEST, HIGHEST" not in line] == []


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (DiTConfig(), 1.4190),
        (DiTConfig(width=5120, depth=40, heads=40, ffn=13824), 14.2885),
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
