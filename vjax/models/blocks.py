"""The Wan block: attention among a video's tokens, then to a text and to images, then feed-forward.

Tokens are `[B F P D]`: frames, positions in a frame, width.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Float

from vjax.config import DiTConfig
from vjax.models.attention import attention
from vjax.models.layers import (
    MLP,
    LayerNorm,
    Linear,
    RMSNorm,
    gelu,
    linear,
    normalize,
    rms_norm,
    rotate,
    xavier,
    zeros,
)
from vjax.parallel.rules import named


class Attention(nnx.Module):
    """Multi-head attention whose q and k are RMS-normed over all heads together.

    With `image` there are keys and values of an image too. Queries attend to them by themselves,
    and what they find is added.
    """

    def __init__(self, config: DiTConfig, image: bool = False, *, rngs: nnx.Rngs):
        inner = config.heads * config.head_dim
        self.head_dim, self.frame_block = config.head_dim, config.frame_block
        self.q = Linear(config.width, inner, rngs=rngs, kernel_init=xavier)
        self.k = Linear(config.width, inner, rngs=rngs, kernel_init=xavier)
        self.v = Linear(config.width, inner, rngs=rngs, kernel_init=xavier)
        self.o = Linear(inner, config.width, rngs=rngs, kernel_init=xavier)
        self.q_norm = RMSNorm(inner, eps=config.eps)
        self.k_norm = RMSNorm(inner, eps=config.eps)
        if image:
            self.image_k = Linear(config.width, inner, rngs=rngs, kernel_init=xavier)
            self.image_v = Linear(config.width, inner, rngs=rngs, kernel_init=xavier)
            self.image_k_norm = RMSNorm(inner, eps=config.eps)

    def __call__(
        self,
        x: Float[Array, "B F P D"],
        context: Float[Array, "b *S D"],
        rotary: Float[Array, "2 _b F P half"] | None = None,
        positions: int | None = None,
        bias: Float[Array, "B F S"] | None = None,
        image: Float[Array, "i I D"] | None = None,
    ) -> Float[Array, "B F P D"]:
        if rotary is None:
            q, k = self.q_norm(self.q(x)), self.k_norm(self.k(context))
        else:
            q, k = self._halves(x, self.q, self.q_norm), self._halves(context, self.k, self.k_norm)
        q, k, v = (self._heads(h, len(x)) for h in (q, k, self.v(context)))
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        if rotary is not None and self.frame_block:
            ends = range(self.frame_block, x.shape[1] + self.frame_block, self.frame_block)
            parts = [
                attention(q[:, end - self.frame_block : end], k[:, :end], v[:, :end], positions)
                for end in ends
            ]
            out = jnp.concatenate(parts, axis=1)
        else:
            out = attention(q, k, v, positions, bias)
        if image is not None:
            k, v = self.image_k_norm(self.image_k(image)), self.image_v(image)
            out = out + attention(q, self._heads(k, len(x)), self._heads(v, len(x)))
        return self.o(rearrange(out, "b ... k d -> b ... (k d)"))

    def _heads(self, x: Float[Array, "b *S inner"], batch: int) -> Float[Array, "B *S K head_dim"]:
        x = rearrange(x, "b ... (k d) -> b ... k d", d=self.head_dim)
        # Several samples in a row share a text.
        return repeat(x, "b ... -> (b r) ...", r=batch // len(x)) if len(x) < batch else x

    def _halves(
        self, x: Float[Array, "B F P D"], projection: Linear, norm: RMSNorm
    ) -> Float[Array, "B F P inner"]:
        """q or k with the even channels of each head first, then the odd ones.

        Wan turns neighbouring channels (2i, 2i+1) together. Scores do not change when q and k are
        reordered alike, so the kernel is reordered instead of the tokens, and `rotate` then works
        on whole halves: strided access is slow everywhere.
        """
        kernel, bias, scale = jax.tree.map(
            lambda p: rearrange(
                p, "... (k c pair) -> ... (k pair c)", c=self.head_dim // 2, pair=2
            ),
            (projection.kernel.get_value(), projection.bias[...], norm.scale[...]),
        )
        # The barrier keeps XLA on CPU from reordering once per token instead of once per layer.
        kernel, bias, scale = jax.lax.optimization_barrier((kernel, bias, scale))
        return rms_norm(linear(x, kernel, bias), scale, eps=norm.eps)


class Block(nnx.Module):
    """Self-attention, cross-attention to text, feed-forward; the first and last are modulated."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.eps = config.eps
        # Zero, and so is the time projection: every block starts with closed gates (adaLN-zero).
        self.modulation = nnx.Param(jnp.zeros((1, 6, config.width)))
        self.self_attention = Attention(config, rngs=rngs)
        self.cross_norm = LayerNorm(config.width, eps=config.eps)
        self.cross_attention = Attention(config, image=bool(config.image_width), rngs=rngs)
        self.ffn = MLP(config.width, config.ffn, config.width, gelu, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B F P D"],
        time: Float[Array, "6 B f p D"],
        text: Float[Array, "b S D"],
        rotary: Float[Array, "2 _b F P half"],
        positions: int,
        text_bias: Float[Array, "B F S"] | None,
        image: Float[Array, "i I D"] | None,
    ) -> Float[Array, "B F P D"]:
        table = rearrange(self.modulation[...].astype(jnp.float32), "1 six d -> six 1 1 1 d")
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table + time

        with jax.named_scope("self_attention"):
            h = modulate(x, shift, scale, eps=self.eps)
            x = add_gated(x, self.self_attention(h, h, rotary, positions), gate)
        with jax.named_scope("cross_attention"):
            h = self.cross_norm(x)
            x = x + self.cross_attention(h, text, bias=text_bias, image=image)
        with jax.named_scope("ffn"):
            h = self.ffn(modulate(x, ffn_shift, ffn_scale, eps=self.eps))
            x = add_gated(x, h, ffn_gate)
        return named(x, "tokens")


class ControlBlock(Block):
    """A block of the control branch; what it has for the video leaves through `hint`."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.hint = Linear(config.width, config.width, rngs=rngs, kernel_init=zeros)


class ImageEmbed(nnx.Module):
    """Tokens of images as the blocks attend to them; which image they are of shows in their places.

    Two images, such as the first frame and the last, are so many tokens in a row.
    """

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        width, tokens = config.image_width, config.image_tokens
        self.positions = nnx.Param(jnp.zeros((1, tokens, width))) if tokens else None
        self.norm_in = LayerNorm(width, eps=1e-5)
        exact = functools.partial(jax.nn.gelu, approximate=False)
        self.mlp = MLP(width, width, config.width, exact, rngs=rngs)
        self.norm_out = LayerNorm(config.width, eps=1e-5)

    def __call__(self, image: Float[Array, "b I image_width"]) -> Float[Array, "b I D"]:
        if self.positions is not None:
            positions = self.positions[...].astype(image.dtype)
            image = image + jnp.broadcast_to(positions, image.shape)
        return self.norm_out(self.mlp(self.norm_in(image)))


def modulate(
    x: Float[Array, "B F P D"],
    shift: Float[Array, "B f p D"],
    scale: Float[Array, "B f p D"],
    *,
    eps: float,
) -> Float[Array, "B F P D"]:
    """Layer norm without parameters of its own, then `(1 + scale) * x + shift`, in float32."""
    return (normalize(x, eps=eps) * (1 + scale) + shift).astype(x.dtype)


def add_gated(
    x: Float[Array, "B F P D"], h: Float[Array, "B F P D"], gate: Float[Array, "B f p D"]
) -> Float[Array, "B F P D"]:
    """`x + gate * h`, in float32."""
    return (x.astype(jnp.float32) + gate * h.astype(jnp.float32)).astype(x.dtype)


def stack(block: type, config: DiTConfig, count: int, rngs: nnx.Rngs) -> nnx.Module:
    """So many blocks, each array of which has one more axis in front."""

    @nnx.split_rngs(splits=count)
    @nnx.vmap
    def draw(rngs: nnx.Rngs) -> nnx.Module:
        return block(config, rngs=rngs)

    return draw(rngs)
