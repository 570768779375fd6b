"""VideoDiT: the Wan diffusion transformer, with a time for every token.

Tokens are viewed as `[B F P D]` (frames, positions in a frame, width) so that modulation keeps the
granularity of the time it comes from: one per clip, one per frame or one per token.
"""

import jax
import jax.numpy as jnp
from einops import rearrange, reduce, repeat
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
    platform,
    rms_norm,
    rotary_angles,
    rotate,
    sinusoid,
    xavier,
    zeros,
)

_small = nnx.initializers.normal(0.02)


class Attention(nnx.Module):
    """Multi-head attention whose q and k are RMS-normed over all heads together."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        inner = config.heads * config.head_dim
        self.head_dim = config.head_dim
        self.q = Linear(config.width, inner, rngs=rngs, kernel_init=xavier)
        self.k = Linear(config.width, inner, rngs=rngs, kernel_init=xavier)
        self.v = Linear(config.width, inner, rngs=rngs, kernel_init=xavier)
        self.o = Linear(inner, config.width, rngs=rngs, kernel_init=xavier)
        self.q_norm = RMSNorm(inner, eps=config.eps)
        self.k_norm = RMSNorm(inner, eps=config.eps)

    def __call__(
        self,
        x: Float[Array, "B N D"],
        context: Float[Array, "B S D"],
        rotary: Float[Array, "2 b N half"] | None = None,
    ) -> Float[Array, "B N D"]:
        if rotary is None:
            q, k = self.q_norm(self.q(x)), self.k_norm(self.k(context))
        else:
            q, k = self._halves(x, self.q, self.q_norm), self._halves(context, self.k, self.k_norm)
        heads = "b n (k d) -> b n k d"
        q, k, v = (rearrange(h, heads, d=self.head_dim) for h in (q, k, self.v(context)))
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        return self.o(rearrange(attention(q, k, v), "b n k d -> b n (k d)"))

    def _halves(
        self, x: Float[Array, "B N D"], projection: Linear, norm: RMSNorm
    ) -> Float[Array, "B N inner"]:
        """q or k with the even channels of each head first, then the odd ones.

        Wan turns neighbouring channels (2i, 2i+1) together. Scores do not change when q and k are
        reordered alike, so the kernel is reordered instead of the tokens, and `rotate` then works
        on whole halves: strided access is slow everywhere.
        """
        kernel, bias, scale = (
            rearrange(p[...], "... (k c pair) -> ... (k pair c)", c=self.head_dim // 2, pair=2)
            for p in (projection.kernel, projection.bias, norm.scale)
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
        self.cross_attention = Attention(config, rngs=rngs)
        self.ffn = MLP(config.width, config.ffn, config.width, gelu, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B F P D"],
        time: Float[Array, "6 B f p D"],
        text: Float[Array, "B S D"],
        rotary: Float[Array, "2 b N half"],
    ) -> Float[Array, "B F P D"]:
        table = rearrange(self.modulation[...].astype(jnp.float32), "1 six d -> six 1 1 1 d")
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = table + time

        with jax.named_scope("self_attention"):
            h = modulate(x, shift, scale, eps=self.eps)
            h = rearrange(h, "b f p d -> b (f p) d")
            h = self.self_attention(h, h, rotary)
            x = add_gated(x, rearrange(h, "b (f p) d -> b f p d", f=x.shape[1]), gate)
        with jax.named_scope("cross_attention"):
            h = rearrange(self.cross_norm(x), "b f p d -> b (f p) d")
            h = self.cross_attention(h, text)
            x = x + rearrange(h, "b (f p) d -> b f p d", f=x.shape[1])
        with jax.named_scope("ffn"):
            h = self.ffn(modulate(x, ffn_shift, ffn_scale, eps=self.eps))
            x = add_gated(x, h, ffn_gate)
        return x


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


class VideoDiT(nnx.Module):
    """Velocity of a video latent, given the time of every token and a text."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        pixels = config.patch[1] * config.patch[2]
        self.patch_embed = Linear(config.in_channels * pixels, width, rngs=rngs)
        self.text_embed = MLP(config.text_width, width, width, gelu, rngs=rngs, kernel_init=_small)
        self.time_embed = MLP(
            config.frequency_dim, width, width, jax.nn.silu, rngs=rngs, kernel_init=_small
        )
        self.time_projection = Linear(width, 6 * width, rngs=rngs, kernel_init=zeros)
        self.anchor_embed = (
            nnx.Param(_small(rngs.params(), (width,), jnp.float32)) if config.anchors else None
        )

        @nnx.split_rngs(splits=config.depth)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.blocks = stack(rngs)
        self.head_modulation = nnx.Param(jnp.zeros((1, 2, width)))
        self.head = Linear(width, config.out_channels * pixels, rngs=rngs, kernel_init=zeros)

    def __call__(
        self,
        latents: Float[Array, "B T H W C"],
        t: Float[Array, " B"] | Float[Array, "B T"] | Float[Array, "B T H W"],
        text: Float[Array, "B S text_width"],
        *,
        positions: Float[Array, " T"] | Float[Array, "B T"],
        anchors: Float[Array, "B A H W C"] | None = None,
        anchor_positions: Float[Array, "B A"] | None = None,
    ) -> Float[Array, "B T H W C_out"]:
        """Velocity (noise minus data) of `latents` at time `t`, from 0 (data) to 1 (noise).

        A patch takes the smallest `t` of its latents. `positions` are in native latent frames: 0,
        1, 2, … for a plain clip. `anchors` are clean frames known at `anchor_positions`, in any
        order; they are seen by the video and get no output.
        """
        config, dtype = self.config, latents.dtype
        frames, height, width = latents.shape[1:4]
        grid = (height // config.patch[1], width // config.patch[2])
        if positions.ndim == 1:
            positions = positions[None]

        with jax.named_scope("embed"):
            t = self._token_times(t)
            seen = latents
            if config.data_std:
                std, mean, deviation = self._gaussian(latents, t, *grid)
                seen = (latents / std).astype(dtype)
            x = self.patch_embed(self._patches(seen))
            if anchors is not None and anchors.shape[1]:
                if config.data_std:
                    anchors = anchors / jnp.array(config.data_std, dtype)[None, None, None, None]
                known = self.patch_embed(self._patches(anchors))
                if self.anchor_embed is not None:
                    embed = self.anchor_embed[...].astype(dtype)
                    known = known + jnp.broadcast_to(embed, known.shape)
                x = jnp.concatenate([x, known], axis=1)
                t = _append_zero_frames(t, frames, anchors.shape[1])
                positions = jnp.broadcast_to(positions, (latents.shape[0], frames))
                positions = jnp.concatenate([positions, anchor_positions], axis=1)
            text = self.text_embed(text.astype(dtype))
            # Times are few next to tokens, and small differences between them matter: float32.
            time = self.time_embed(sinusoid(1000 * t.astype(jnp.float32), config.frequency_dim))
            modulation = self.time_projection(jax.nn.silu(time))
            modulation = rearrange(modulation, "b f p (six d) -> six b f p d", six=6)
            rotary = self._rotary(positions, *grid)

        graph, blocks = nnx.split(self.blocks)

        def body(x, block):
            return nnx.merge(graph, block)(x, modulation, text, rotary), None

        # A short loop on CPU is faster unrolled: no copies in and out of stacked arrays.
        unroll = config.depth if platform() == "cpu" and config.depth <= 8 else 1
        if config.remat:
            # A loop keeps XLA from merging the recomputation with the first computation.
            body = jax.checkpoint(body, prevent_cse=unroll > 1)
        x, _ = jax.lax.scan(body, x, blocks, unroll=unroll)

        with jax.named_scope("head"):
            x, time = x[:, :frames], time[:, :frames]
            table = rearrange(self.head_modulation[...].astype(jnp.float32), "1 s d -> s 1 1 1 d")
            shift, scale = table + time[None]
            x = self.head(modulate(x, shift, scale, eps=config.eps))
            x = rearrange(
                x,
                "b f (h w) (ph pw c) -> b f (h ph) (w pw) c",
                h=grid[0],
                ph=config.patch[1],
                pw=config.patch[2],
            )
            return (mean + deviation * x).astype(dtype) if config.data_std else x

    def _gaussian(
        self, latents: Float[Array, "B T H W C"], t: Float[Array, "B f p"], height: int, width: int
    ) -> tuple[Array, Array, Array]:
        """Deviation of `latents` at time `t`, mean and deviation of their velocity, if Gaussian.

        If the data of a channel were Gaussian with deviation σ, `latents` would have deviation
        s = √((1 - t)² σ² + t²), and their velocity the mean (t - (1 - t) σ²) / s² · x_t and the
        deviation σ / s. Measured in these, what the network sees and predicts has unit variance at
        all times (as in Karras et al. 2022, arXiv:2206.00364, for noise that is added).
        """
        _, ph, pw = self.config.patch
        if t.shape[2] == 1:
            t = t[..., None, None]
        else:
            t = repeat(t, "b f (h w) -> b f (h ph) (w pw) 1", h=height, ph=ph, pw=pw)
        t = t.astype(jnp.float32)
        variance = jnp.square(jnp.array(self.config.data_std))[None, None, None, None]
        total = jnp.square(1 - t) * variance + jnp.square(t)
        mean = (t - (1 - t) * variance) / total * latents
        return jnp.sqrt(total), mean, jnp.sqrt(variance / total)

    def _patches(self, latents: Float[Array, "B T H W C"]) -> Float[Array, "B T P features"]:
        # Channels first, as a published patch convolution flattens.
        _, ph, pw = self.config.patch
        return rearrange(latents, "b f (h ph) (w pw) c -> b f (h w) (c ph pw)", ph=ph, pw=pw)

    def _token_times(self, t: Array) -> Float[Array, "B f p"]:
        if t.ndim == 1:
            return t[:, None, None]
        if t.ndim == 2:
            return t[:, :, None]
        _, ph, pw = self.config.patch
        return reduce(t, "b f (h ph) (w pw) -> b f (h w)", "min", ph=ph, pw=pw)

    def _rotary(
        self, positions: Float[Array, "b F"], height: int, width: int
    ) -> Float[Array, "2 b N half"]:
        theta, head_dim = self.config.rope_theta, self.config.head_dim
        space = 2 * (head_dim // 6)
        frames = rotary_angles(positions, head_dim - 2 * space, theta=theta)
        rows = rotary_angles(jnp.arange(height, dtype=jnp.float32), space, theta=theta)
        columns = rotary_angles(jnp.arange(width, dtype=jnp.float32), space, theta=theta)
        shape = (*positions.shape, height, width)
        angles = [
            jnp.broadcast_to(frames[:, :, None, None, :], (*shape, frames.shape[-1])),
            jnp.broadcast_to(rows[None, None, :, None, :], (*shape, rows.shape[-1])),
            jnp.broadcast_to(columns[None, None, None, :, :], (*shape, columns.shape[-1])),
        ]
        angles = rearrange(jnp.concatenate(angles, axis=-1), "b f h w c -> b (f h w) c")
        # The barrier keeps XLA on CPU from computing cosines once per head and layer.
        return jax.lax.optimization_barrier(jnp.stack([jnp.cos(angles), jnp.sin(angles)]))


def _append_zero_frames(t: Float[Array, "B f p"], frames: int, count: int) -> Array:
    batch, _, positions = t.shape
    t = jnp.broadcast_to(t, (batch, frames, positions))
    return jnp.concatenate([t, jnp.zeros((batch, count, positions), t.dtype)], axis=1)
