"""TextEncoder: the T5 encoder (UMT5 where every layer has its own position bias)."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from vjax.config import TextConfig
from vjax.models.layers import Linear, RMSNorm, gelu
from vjax.parallel.rules import gathered_layer, named


def words_of(text: str) -> set[str]:
    """The words of a text in lower case, without punctuation."""
    return set(re.findall(r"[^\s.,;:!?\"()]+", text.lower()))


def relative_buckets(length: int, buckets: int, max_distance: int) -> Int[np.ndarray, "S S"]:
    """Bucket of every (query, key) offset: half for each sign, exact near, logarithmic far (T5)."""
    half = buckets // 2
    exact = half // 2
    offset = np.arange(length)[None, :] - np.arange(length)[:, None]
    distance = np.abs(offset)
    far = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.log(max_distance / exact)
    far = np.minimum(exact + (far * (half - exact)).astype(np.int64), half - 1)
    return np.where(offset > 0, half, 0) + np.where(distance < exact, distance, far)


class Layer(nnx.Module):
    """Self-attention without scaling, then a gated-GELU feed-forward, both pre-normed."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        width, inner, ffn = config.width, config.heads * config.head_dim, config.ffn

        def linear(inputs: int, outputs: int, variance: float) -> Linear:
            init = nnx.initializers.normal(variance**0.5)
            return Linear(inputs, outputs, rngs=rngs, use_bias=False, kernel_init=init)

        self.head_dim = config.head_dim
        self.attention_norm = RMSNorm(width, eps=config.eps)
        # The missing 1/sqrt(head_dim) of the scores is in the initial scale of q (Mesh TensorFlow).
        self.q = linear(width, inner, 1 / (width * config.head_dim))
        self.k = linear(width, inner, 1 / width)
        self.v = linear(width, inner, 1 / width)
        self.o = linear(inner, width, 1 / inner)
        self.relative_bias = _relative_bias(config, rngs) if config.per_layer_bias else None
        self.ffn_norm = RMSNorm(width, eps=config.eps)
        self.gate = linear(width, ffn, 1 / width)
        self.up = linear(width, ffn, 1 / width)
        self.down = linear(ffn, width, 1 / ffn)

    def __call__(
        self, x: Float[Array, "B S D"], bias: Float[Array, "b K S S"]
    ) -> Float[Array, "B S D"]:
        with jax.named_scope("attention"):
            h = self.attention_norm(x)
            heads = "b s (k d) -> b s k d"
            q = rearrange(self.q(h), heads, d=self.head_dim)
            k = rearrange(self.k(h), heads, d=self.head_dim)
            v = rearrange(self.v(h), heads, d=self.head_dim)
            scores = jnp.einsum("bqkd,bskd->bkqs", q, k, preferred_element_type=jnp.float32)
            weights = jax.nn.softmax(scores + bias, axis=-1).astype(x.dtype)
            h = jnp.einsum("bkqs,bskd->bqkd", weights, v)
            x = x + self.o(rearrange(h, "b s k d -> b s (k d)"))
        with jax.named_scope("ffn"):
            h = self.ffn_norm(x)
            return x + self.down(gelu(self.gate(h)) * self.up(h))


class TextEncoder(nnx.Module):
    """One vector per token of a text."""

    def __init__(self, config: TextConfig, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(1.0)
        self.embedding = nnx.Param(init(rngs.params(), (config.vocab, config.width), jnp.float32))
        self.relative_bias = None if config.per_layer_bias else _relative_bias(config, rngs)

        @nnx.split_rngs(splits=config.depth)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Layer:
            return Layer(config, rngs=rngs)

        self.layers = stack(rngs)
        self.norm = RMSNorm(config.width, eps=config.eps)

    def __call__(
        self,
        ids: Int[Array, "B S"],
        mask: Bool[Array, "B S"] | Int[Array, "B S"],
        *,
        dtype: jax.typing.DTypeLike | None = None,
    ) -> Float[Array, "B S D"]:
        """Encode `ids`; padding (mask 0) is not attended to and comes out as zero vectors.

        Computed in `dtype`, by default that of the parameters.
        """
        config = self.config
        mask = mask.astype(bool)
        embedding = self.embedding[...]
        x = named(embedding[ids], "embedded").astype(dtype or embedding.dtype)
        x = named(x, "clips")
        buckets = relative_buckets(
            ids.shape[1], config.relative_buckets, config.relative_max_distance
        )
        padding = jnp.where(mask, 0.0, -1e9)[:, None, None, :]

        def score_bias(table: nnx.Param) -> Float[Array, "B K S S"]:
            bias = table[...].astype(jnp.float32)[buckets]
            return rearrange(bias, "q s k -> 1 k q s") + padding

        shared = None if config.per_layer_bias else score_bias(self.relative_bias)
        graph, layers = nnx.split(self.layers)

        def body(x, layer):
            layer = nnx.merge(graph, gathered_layer(layer, "layers", x.dtype))
            bias = score_bias(layer.relative_bias) if config.per_layer_bias else shared
            return named(layer(x, bias), "clips"), None

        x, _ = jax.lax.scan(body, x, layers)
        return self.norm(x) * mask[:, :, None].astype(x.dtype)


def _relative_bias(config: TextConfig, rngs: nnx.Rngs) -> nnx.Param:
    """Heads that start with what is near: one with what comes before, the next with what follows.

    Next to a word stands what it says something of; heads that look everywhere at first take long
    to find it.
    """
    half = config.relative_buckets // 2
    bucket, head = np.meshgrid(
        np.arange(config.relative_buckets), np.arange(config.heads), indexing="ij"
    )
    other_side = (bucket >= half) == (head % 2 == 0)
    near = -0.7 * (bucket % half) - 2.0 * other_side
    noise = nnx.initializers.normal(config.width**-0.5)(rngs.params(), near.shape, jnp.float32)
    return nnx.Param(near + noise)
