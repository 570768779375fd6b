"""TextEncoder: padding, training and size."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vjax import models
from vjax.config import TextConfig

BYTES = TextConfig(vocab=259, width=32, depth=2, heads=2, head_dim=16, ffn=48, max_length=24)


@functools.partial(jax.jit, static_argnames="config")
def encode(params, ids, mask, *, config=BYTES):
    return models.bind(config, params)(ids, mask)


@pytest.fixture(scope="module")
def params():
    return models.init(BYTES, jax.random.key(0))


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
