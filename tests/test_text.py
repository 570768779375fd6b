"""TextEncoder against transformers' UMT5 and T5 encoders; byte ids."""

import dataclasses
import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vjax import models
from vjax.config import TextConfig

DATA = pathlib.Path(__file__).parent / "data"
UMT5 = TextConfig(vocab=128, width=32, depth=2, heads=4, head_dim=8, ffn=64)
BYTES = TextConfig(vocab=259, width=32, depth=2, heads=2, head_dim=16, ffn=48, max_length=24)
LAYER = {
    "layer.0.layer_norm": ("attention_norm", "scale"),
    "layer.0.SelfAttention.q": ("q", "kernel"),
    "layer.0.SelfAttention.k": ("k", "kernel"),
    "layer.0.SelfAttention.v": ("v", "kernel"),
    "layer.0.SelfAttention.o": ("o", "kernel"),
    "layer.0.SelfAttention.relative_attention_bias": ("relative_bias", None),
    "layer.1.layer_norm": ("ffn_norm", "scale"),
    "layer.1.DenseReluDense.wi_0": ("gate", "kernel"),
    "layer.1.DenseReluDense.wi_1": ("up", "kernel"),
    "layer.1.DenseReluDense.wo": ("down", "kernel"),
}


def t5_params(arrays, config: TextConfig) -> dict:
    layers = {}
    for theirs, (ours, leaf) in LAYER.items():
        stack = [
            arrays[name]
            for i in range(config.depth)
            if (name := f"param/encoder.block.{i}.{theirs}.weight") in arrays
        ]
        stack = np.stack([x.T for x in stack] if leaf == "kernel" else stack)
        layers[ours] = {leaf: stack} if leaf else stack
    params = {
        "embedding": arrays["param/shared.weight"],
        "layers": layers,
        "norm": {"scale": arrays["param/encoder.final_layer_norm.weight"]},
    }
    if not config.per_layer_bias:
        params["relative_bias"] = layers.pop("relative_bias")[0]
    return params


@functools.partial(jax.jit, static_argnames="config")
def encode(params, ids, mask, *, config=BYTES):
    return models.bind(config, params)(ids, mask)


@pytest.fixture(scope="module")
def params():
    return models.init(BYTES, jax.random.key(0))


@pytest.mark.parametrize("family", ["umt5", "t5"])
def test_equals_transformers(family):
    config = dataclasses.replace(UMT5, per_layer_bias=family == "umt5")
    with np.load(DATA / f"{family}_encoder.npz") as arrays:
        arrays = dict(arrays)
    mask = arrays["mask"]
    ours = encode(t5_params(arrays, config), arrays["ids"], mask, config=config)
    theirs = arrays["hidden"] * mask[:, :, None]
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert not np.any(ours[~mask])


def test_padding_changes_nothing(params):
    short, long = tiny.tokenizer(12)(["a red ball"]), tiny.tokenizer(24)(["a red ball"])
    np.testing.assert_allclose(encode(params, *long)[:, :12], encode(params, *short), atol=1e-5)


def test_every_parameter_is_trained(params):
    ids, mask = tiny.tokenizer(24)(["a red ball", "two blue squares"])
    out = encode(params, ids, mask)
    assert 0.5 < float(jnp.std(out[mask])) < 2
    target = jax.random.normal(jax.random.key(1), out.shape)
    grads = jax.grad(lambda p: jnp.sum(encode(p, ids, mask) * target))(params)
    for path, grad in jax.tree.leaves_with_path(grads):
        assert np.any(grad), path


def test_published_size():
    shapes = jax.tree.leaves(models.abstract(TextConfig()))
    # UMT5-XXL: 24 layers, and one table of positions in each.
    assert sum(math.prod(x.shape) for x in shapes) / 1e9 == pytest.approx(5.6809, abs=1e-4)
