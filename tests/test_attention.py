"""Attention on CPU against its plain form: values, gradients and memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vjax.models import attention as module
from vjax.models.attention import attention


def inputs(queries: int, keys: int, batch: int = 2, heads: int = 3, width: int = 8):
    shapes = [(batch, queries, heads, width), *[(batch, keys, heads, width)] * 2]
    return [2 * jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (23, 5), (1, 9), (16, 16)])
def test_values_and_gradients_are_those_of_the_plain_form(queries, keys, blocked, monkeypatch):
    if blocked:  # of 8 queries, and of fewer where they do not divide
        monkeypatch.setattr(module, "BATCHED_UP_TO", 0)
        monkeypatch.setattr(module, "BLOCK", 8 * keys)
    qkv = inputs(queries, keys)

    def run(function):
        loss = lambda qkv: jnp.sum(jnp.sin(function(*qkv)))  # noqa: E731
        return function(*qkv), *jax.grad(loss)(qkv)

    for ours, plain in zip(run(attention), run(jax.nn.dot_product_attention), strict=True):
        np.testing.assert_allclose(ours, plain, atol=1e-5, rtol=2e-5)


def test_memory_grows_with_the_length_and_not_with_its_square():
    def bytes_held(length: int) -> int:
        loss = lambda *qkv: jnp.sum(jnp.square(attention(*qkv)))  # noqa: E731
        shapes = jax.eval_shape(lambda: inputs(length, length, batch=1, heads=8, width=64))
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    scores = 4 * 8 * 4096 * 4096
    assert bytes_held(4096) < scores / 5
    assert bytes_held(8192) < 2.5 * bytes_held(4096)


def test_bfloat16_stays_bfloat16(monkeypatch):
    monkeypatch.setattr(module, "BATCHED_UP_TO", 0)
    qkv = [x.astype(jnp.bfloat16) for x in inputs(9, 5)]
    out = attention(*qkv)
    assert out.dtype == jnp.bfloat16
    plain = jax.nn.dot_product_attention(*(x.astype(jnp.float32) for x in qkv))
    assert np.abs(out.astype(jnp.float32) - plain).max() < 0.03 * np.abs(plain).max()


@pytest.mark.parametrize(
    ("width", "dtype", "architecture", "fused"),
    [
        (128, "bfloat16", 9, True),
        (64, "float16", 8, True),
        (256, "bfloat16", 9, True),
        (256, "bfloat16", 8, False),
        (36, "bfloat16", 9, False),
        (128, "float32", 9, False),
        (128, "bfloat16", 7, False),
        (128, "bfloat16", 0, False),  # no GPU of NVIDIA
    ],
)
def test_gpus_use_the_fused_kernel_where_it_fits(width, dtype, architecture, fused, monkeypatch):
    cudnn = "jax._src.cudnn.fused_attention_stablehlo"
    monkeypatch.setattr(f"{cudnn}.check_cudnn_version", lambda: 91200)
    monkeypatch.setattr(f"{cudnn}.check_compute_capability", lambda least: architecture >= 9)
    monkeypatch.setattr(module, "platform", lambda: "gpu")
    monkeypatch.setattr(module, "_architecture", lambda: architecture)

    def loss(*qkv):
        return jnp.sum(attention(*qkv).astype(jnp.float32))

    qkv = [jax.ShapeDtypeStruct((1, length, 2, width), dtype) for length in (2048, 512, 512)]
    lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*qkv)
    text = lowered.lower(lowering_platforms=("cuda",)).as_text()
    for kernel in ("__cudnn$fmhaSoftmax(", "__cudnn$fmhaSoftmaxBackward("):
        assert (kernel in text) == fused
    assert ("2048x512" in text) != fused  # a score for each pair
