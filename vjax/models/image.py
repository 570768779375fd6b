"""ImageEncoder: CLIP's vision transformer, as image-to-video models read it.

They read the tokens that enter its last layer, so that this layer and the norm after it are not
here.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Float

from vjax.config import ImageConfig
from vjax.models.attention import attention
from vjax.models.layers import LayerNorm, Linear
from vjax.parallel.rules import gathered_layer, named

_small = nnx.initializers.normal(0.02)


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": _quick_gelu,
}


class Layer(nnx.Module):
    """Self-attention and feed-forward, both pre-normed."""

    def __init__(self, config: ImageConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.heads = config.heads
        self.activation = _ACTIVATIONS[config.activation]
        self.attention_norm = LayerNorm(width, eps=config.eps)
        self.q = Linear(width, width, rngs=rngs)
        self.k = Linear(width, width, rngs=rngs)
        self.v = Linear(width, width, rngs=rngs)
        self.o = Linear(width, width, rngs=rngs)
        self.ffn_norm = LayerNorm(width, eps=config.eps)
        self.up = Linear(width, config.ffn, rngs=rngs)
        self.down = Linear(config.ffn, width, rngs=rngs)

    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        with jax.named_scope("attention"):
            h = self.attention_norm(x)
            q, k, v = (
                rearrange(projection(h), "b n (k d) -> b n k d", k=self.heads)
                for projection in (self.q, self.k, self.v)
            )
            x = x + self.o(rearrange(attention(q, k, v), "b n k d -> b n (k d)"))
        with jax.named_scope("ffn"):
            return x + self.down(self.activation(self.up(self.ffn_norm(x))))


class ImageEncoder(nnx.Module):
    """A vector for an image, and one for each patch of it."""

    def __init__(self, config: ImageConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.patch_embed = Linear(3 * config.patch**2, width, rngs=rngs, use_bias=False)
        self.class_embed = nnx.Param(_small(rngs.params(), (width,), jnp.float32))
        self.positions = nnx.Param(_small(rngs.params(), (config.tokens, width), jnp.float32))
        self.norm_in = LayerNorm(width, eps=config.eps)

        @nnx.split_rngs(splits=config.depth - 1)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Layer:
            return Layer(config, rngs=rngs)

        self.layers = stack(rngs)

    def __call__(
        self, pixels: Float[Array, "B H W 3"], *, dtype: jax.typing.DTypeLike | None = None
    ) -> Float[Array, "B N D"]:
        """Encode images of `side` x `side` pixels in 0..1; the first token is the whole image's.

        Computed in `dtype`, by default that of the parameters.
        """
        config = self.config
        if pixels.shape[1:3] != (config.side, config.side):
            raise ValueError(
                f"The image encoder takes {config.side} x {config.side} pixels, not "
                f"{pixels.shape[1]} x {pixels.shape[2]}: resize the image."
            )
        dtype = dtype or self.positions[...].dtype
        mean, std = (jnp.array(x, jnp.float32)[None, None, None] for x in (config.mean, config.std))
        side = config.side // config.patch * config.patch
        x = ((pixels.astype(jnp.float32) - mean) / std)[:, :side, :side].astype(dtype)
        # Channels first, as a published patch convolution flattens.
        x = rearrange(x, "b (h p) (w q) c -> b (h w) (c p q)", p=config.patch, q=config.patch)
        whole = repeat(self.class_embed[...].astype(dtype), "d -> b 1 d", b=len(x))
        x = jnp.concatenate([whole, self.patch_embed(x)], axis=1)
        x = self.norm_in(x + self.positions[...].astype(dtype)[None])
        graph, layers = nnx.split(self.layers)

        def body(x, layer):
            layer = nnx.merge(graph, gathered_layer(layer, "layers", dtype))
            return named(layer(x), "clips"), None

        return jax.lax.scan(body, named(x, "clips"), layers)[0]
