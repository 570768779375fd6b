"""VideoDiT against diffusers' WanTransformer3DModel, and against itself where paths must agree."""

import dataclasses
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange, repeat
from flax import nnx

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
    depth=3,
    heads=2,
    head_dim=16,
    ffn=48,
    in_channels=3,
    out_channels=5,
    text_width=8,
    frequency_dim=16,
    anchors=True,
)
# Wan's name for each parameter, as diffusers spells it; `{i}` counts the blocks.
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


def wan_params(arrays) -> dict:
    """The nested parameters of `WAN` out of diffusers' flat names."""
    blocks = {}
    for name in arrays:
        if name.startswith("param/"):
            generic = re.sub(r"blocks\.\d+", "blocks", name.removeprefix("param/"))
            blocks.setdefault(generic, []).append(arrays[name])  # in the order of their index
    params = {}
    for name, layers in blocks.items():
        layers = [rearrange(x, "o ... -> (...) o") if x.ndim in (2, 5) else x for x in layers]
        module, leaf = re.fullmatch(r"(.*?)(\.weight|\.bias)?", name).groups()
        if leaf == ".weight":
            leaf = ".scale" if "norm" in module else ".kernel"
        *path, last = (NAMES[module] + (leaf or "")).split(".")
        node = params
        for part in path:
            node = node.setdefault(part, {})
        node[last] = np.stack(layers) if name.startswith("blocks") else layers[0]
    return params


def random_params(config: DiTConfig) -> dict:
    """Parameters away from their initial zeros, so that every path carries a signal."""
    leaves, tree = jax.tree.flatten(models.init(config, jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise, strict=True)])


@pytest.fixture(scope="module")
def small():
    keys = jax.random.split(jax.random.key(2), 3)
    inputs = {
        "latents": jax.random.normal(keys[0], (2, 3, 4, 6, 3)),
        "text": jax.random.normal(keys[1], (2, 5, 8)),
        "anchors": jax.random.normal(keys[2], (2, 2, 4, 6, 3)),
    }
    return random_params(SMALL), inputs


def velocity(params, inputs, t, config=SMALL, **known):
    @jax.jit
    def run(params, latents, text, t, known):
        positions = jnp.arange(latents.shape[1], dtype=jnp.float32)
        return models.bind(config, params)(latents, t, text, positions=positions, **known)

    return run(params, inputs["latents"], inputs["text"], t, known)


@pytest.mark.parametrize("time", ["t", "token_t"])
def test_equals_wan(time):
    with np.load(pathlib.Path(__file__).parent / "data" / "wan_transformer.npz") as arrays:
        arrays = dict(arrays)
    latents = rearrange(arrays["latents"], "b c t h w -> b t h w c")
    t = arrays[time] / 1000
    if time == "token_t":
        t = repeat(t, "b (t h w) -> b t (h ph) (w pw)", t=3, h=2, ph=2, pw=2)
    inputs = {"latents": latents, "text": arrays["text"]}
    ours = velocity(wan_params(arrays), inputs, jnp.asarray(t), WAN)
    theirs = arrays["velocity" if time == "t" else "token_velocity"]
    theirs = rearrange(theirs, "b c t h w -> b t h w c")
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_time_means_the_same_at_every_granularity(small):
    params, inputs = small
    t = jnp.array([0.3, 0.8])
    per_clip = velocity(params, inputs, t)
    np.testing.assert_allclose(
        velocity(params, inputs, repeat(t, "b -> b t", t=3)), per_clip, atol=1e-5
    )
    np.testing.assert_allclose(
        velocity(params, inputs, repeat(t, "b -> b t h w", t=3, h=4, w=6)), per_clip, atol=1e-5
    )
    assert np.abs(velocity(params, inputs, t + 0.1) - per_clip).max() > 1e-3


def test_a_patch_takes_its_smallest_time(small):
    params, inputs = small
    t = jnp.full((2, 3, 4, 6), 0.9).at[:, :, 1::2, ::2].set(0.4)
    np.testing.assert_allclose(
        velocity(params, inputs, t), velocity(params, inputs, jnp.full(2, 0.4)), atol=1e-5
    )


def test_anchors_inform_the_video(small):
    params, inputs = small
    anchors, t = inputs["anchors"], jnp.array([0.3, 0.8])
    times = jnp.array([[7.0, -2.0], [1.5, 4.0]])
    plain = velocity(params, inputs, t)
    known = velocity(params, inputs, t, anchors=anchors, anchor_positions=times)
    assert known.shape == plain.shape
    assert np.abs(known - plain).max() > 1e-3
    # None is no anchors, their order means nothing, their position does.
    none = velocity(params, inputs, t, anchors=anchors[:, :0], anchor_positions=times[:, :0])
    np.testing.assert_array_equal(none, plain)
    swapped = velocity(params, inputs, t, anchors=anchors[:, ::-1], anchor_positions=times[:, ::-1])
    np.testing.assert_allclose(swapped, known, atol=1e-4)
    moved = velocity(params, inputs, t, anchors=anchors, anchor_positions=times + 1)
    assert np.abs(moved - known).max() > 1e-3


def test_an_anchor_is_a_clean_frame_and_its_embedding(small):
    """With the embedding zero, an anchor at t = 0 acts as one more frame of the clip."""
    params, inputs = small
    params = params | {"anchor_embed": jnp.zeros_like(params["anchor_embed"])}
    latents, t = inputs["latents"], jnp.array([[0.3, 0.8, 0.0]] * 2)
    whole = velocity(params, inputs, t)
    split = velocity(
        params,
        inputs | {"latents": latents[:, :2]},
        t[:, :2],
        anchors=latents[:, 2:],
        anchor_positions=jnp.full((2, 1), 2.0),
    )
    np.testing.assert_allclose(split, whole[:, :2], atol=1e-4)


def test_scan_equals_a_loop_over_blocks(small, monkeypatch):
    params, inputs = small
    t = jnp.array([0.3, 0.8])
    scanned = velocity(params, inputs, t)

    def loop(body, carry, stacked, **_):
        for i in range(SMALL.depth):
            carry, _ = body(carry, jax.tree.map(lambda x, i=i: x[i], stacked))
        return carry, None

    monkeypatch.setattr(jax.lax, "scan", loop)
    np.testing.assert_allclose(velocity(params, inputs, t), scanned, atol=1e-5)


def test_rematerialisation_changes_no_gradient(small):
    params, inputs = small

    def gradients(remat):
        config = dataclasses.replace(SMALL, remat=remat)
        return jax.grad(
            lambda p: jnp.sum(jnp.square(velocity(p, inputs, jnp.array([0.3, 0.8]), config)))
        )(params)

    norms = jax.tree.map(lambda x: float(jnp.abs(x).max()), gradients(True))
    assert all(
        norm > 0 for path, norm in jax.tree.leaves_with_path(norms) if "anchor" not in path[0].key
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * jnp.abs(b).max()),
        gradients(True),
        gradients(False),
    )


def test_bfloat16_follows_float32(small):
    params, inputs = small
    t = jnp.array([0.3, 0.8])
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), inputs)
    ours = velocity(params, half, t)
    assert ours.dtype == jnp.bfloat16
    exact = velocity(params, inputs, t)
    assert np.abs(ours.astype(jnp.float32) - exact).max() < 0.05 * np.abs(exact).max()


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


def test_starts_at_zero_velocity_and_learns_from_there(small):
    """Closed gates and a zero head, yet the head's gradient is not zero."""
    _, inputs = small
    params = models.init(SMALL, jax.random.key(0))
    t = jnp.array([0.3, 0.8])
    assert not np.any(velocity(params, inputs, t))
    grads = jax.grad(lambda p: jnp.sum(velocity(p, inputs, t)))(params)
    assert np.any(grads["head"]["kernel"])


def test_network_holds_parameters_only():
    graph_state = nnx.state(nnx.eval_shape(lambda: models.VideoDiT(SMALL, rngs=nnx.Rngs(0))))
    kinds = {
        type(x) for x in jax.tree.leaves(graph_state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    }
    assert kinds == {nnx.Param}
