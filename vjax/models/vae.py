"""The causal video autoencoder: pixels to latents and back, whole or streamed over time.

Wan 2.1's network (Wan et al. 2025, arXiv:2503.20314). The first latent is one frame and every
further latent is `temporal_ratio` frames, so a single image is a video of length 1. No layer looks
ahead, and each returns the history that its next chunk needs: `encode` and `decode` run over the
whole video as one chunk, `encode_stream` and `decode_stream` scan over it latent by latent, and
both give the same result.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Real

from vjax.config import VAEConfig
from vjax.models.convolution import CausalConv, Downsample, Upsample, Video

Latents = Float[Array, "B t h w z"]
Pixels = Float[Array, "B T H W 3"]
History = tuple | None  # what a network keeps of earlier chunks; None at the start of a video


class RMSNorm(nnx.Module):
    """Scales the channels of each pixel to unit mean square, in float32."""

    def __init__(self, channels: int):
        self.gamma = nnx.Param(jnp.ones(channels))

    def __call__(self, x: Video) -> Video:
        y = x.astype(jnp.float32)
        # The floor is the published one: 1e-12 on the norm, for an input of zeros.
        power = jnp.maximum(jnp.sum(y * y, axis=-1, keepdims=True), 1e-24)
        gamma = self.gamma[...] * x.shape[-1] ** 0.5
        return (y * lax.rsqrt(power) * gamma[None, None, None, None]).astype(x.dtype)


class ResBlock(nnx.Module):
    """Two causal convolutions around a shortcut."""

    def __init__(self, channels: int, out_channels: int, *, rngs: nnx.Rngs):
        self.norm1 = RMSNorm(channels)
        self.conv1 = CausalConv(channels, out_channels, rngs=rngs)
        self.norm2 = RMSNorm(out_channels)
        # A small last convolution: at the start of training each block is close to its shortcut.
        self.conv2 = CausalConv(out_channels, out_channels, scale=0.01, rngs=rngs)
        self.conv_shortcut = (
            CausalConv(channels, out_channels, (1, 1, 1), rngs=rngs)
            if channels != out_channels
            else None
        )

    def __call__(self, x: Video, past: History = None) -> tuple[Video, History]:
        past1, past2 = past or (None, None)
        y, past1 = self.conv1(nnx.silu(self.norm1(x)), past1)
        y, past2 = self.conv2(nnx.silu(self.norm2(y)), past2)
        if self.conv_shortcut is not None:
            x, _ = self.conv_shortcut(x)
        return x + y, (past1, past2)


class Attention(nnx.Module):
    """Single-head attention among the pixels of each frame."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(channels)
        self.to_qkv = CausalConv(channels, 3 * channels, (1, 1, 1), rngs=rngs)
        self.proj = CausalConv(channels, channels, (1, 1, 1), scale=0.01, rngs=rngs)

    def __call__(self, x: Video, past: None = None) -> tuple[Video, None]:
        qkv, _ = self.to_qkv(self.norm(x))
        q, k, v = rearrange(qkv, "B T H W (n C) -> n (B T) (H W) 1 C", n=3)
        y = jax.nn.dot_product_attention(q, k, v)
        y = rearrange(y, "(B T) (H W) 1 C -> B T H W C", B=x.shape[0], H=x.shape[2])
        return x + self.proj(y)[0], None


def run(layers: Sequence[nnx.Module], x: Video, past: History) -> tuple[Video, History]:
    """The layers one after another, each with its own history."""
    kept = []
    for layer, before in zip(layers, past or (None,) * len(layers), strict=True):
        x, after = layer(x, before)
        kept.append(after)
    return x, tuple(kept)


class MidBlock(nnx.Module):
    """Two residual blocks at the smallest size, with attention between them if asked for."""

    def __init__(self, channels: int, attention: bool, *, rngs: nnx.Rngs):
        self.resnets = nnx.List([ResBlock(channels, channels, rngs=rngs) for _ in range(2)])
        self.attentions = nnx.List([Attention(channels, rngs=rngs)] if attention else [])

    def __call__(self, x: Video, past: History = None) -> tuple[Video, History]:
        return run([self.resnets[0], *self.attentions, self.resnets[1]], x, past)


class ResidualDown(nnx.Module):
    """A stage of the encoder beside a fixed shortcut: pixels folded into channels and averaged.

    The shortcut carries a small version of the video from the first step of training on, which is
    what makes high compression learnable (DC-AE, arXiv:2410.10733; Wan 2.2).
    """

    def __init__(
        self, layers: list[nnx.Module], channels: int, out_channels: int, factors: tuple[int, int]
    ):
        self.layers = nnx.List(layers)
        self.factors, self.out_channels = factors, out_channels
        if channels * factors[0] * factors[1] ** 2 % out_channels:
            raise ValueError(
                f"A residual VAE cannot go from {channels} to {out_channels} channels: choose "
                "widths that divide what a stage folds together."
            )

    def __call__(self, x: Video, past: History = None) -> tuple[Video, History]:
        time, space = self.factors
        small = jnp.pad(x, [(0, 0), (-x.shape[1] % time, 0), (0, 0), (0, 0), (0, 0)])
        small = rearrange(
            small, "B (T r) (H p) (W q) C -> B T H W (C r p q)", r=time, p=space, q=space
        )
        small = reduce(small, "B T H W (O g) -> B T H W O", "mean", O=self.out_channels)
        x, past = run(self.layers, x, past)
        return x + small, past


class UpBlock(nnx.Module):
    """Residual blocks and, except in the last stage, an upsampling.

    Wan 2.1's upsampling halves the channels; Wan 2.2 (`residual`) keeps them and adds a fixed
    shortcut: channels repeated and unfolded into pixels.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        num_res_blocks: int,
        upsample: bool,
        temporal: bool,
        residual: bool,
        *,
        rngs: nnx.Rngs,
    ):
        widths = [channels] + [out_channels] * (num_res_blocks + 1)
        self.resnets = nnx.List(
            [ResBlock(a, b, rngs=rngs) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        )
        grown = out_channels if residual else out_channels // 2
        self.upsamplers = nnx.List(
            [Upsample(out_channels, grown, temporal, rngs=rngs)] if upsample else []
        )
        self.shortcut = (2 if temporal else 1, out_channels) if residual and upsample else None

    def __call__(self, x: Video, past: History = None) -> tuple[Video, History]:
        y, kept = run([*self.resnets, *self.upsamplers], x, past)
        if self.shortcut is None:
            return y, kept
        time, out_channels = self.shortcut
        large = jnp.repeat(x, 4 * time * out_channels // x.shape[-1], axis=-1)
        large = rearrange(large, "B T H W (O r p q) -> B (T r) (H p) (W q) O", r=time, p=2, q=2)
        return y + (large[:, time - 1 :] if past is None else large), kept


class Encoder(nnx.Module):
    """Folded pixels to latent moments, one chunk of time."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        widths = [config.base_dim * m for m in (1, *config.dim_mult)]
        self.conv_in = CausalConv(3 * config.patch_size**2, widths[0], rngs=rngs)
        blocks: list[nnx.Module] = []
        stages = list(zip(widths[:-1], widths[1:], strict=True))
        for i, (channels, out_channels) in enumerate(stages):
            stage: list[nnx.Module] = []
            first = channels
            for _ in range(config.num_res_blocks):
                stage.append(ResBlock(channels, out_channels, rngs=rngs))
                channels = out_channels
            shrinks = i < len(stages) - 1
            temporal = shrinks and config.temporal_downsample[i]
            if shrinks:
                stage.append(Downsample(out_channels, temporal, rngs=rngs))
            if config.residual:
                factors = (2 if temporal else 1, 2 if shrinks else 1)
                blocks.append(ResidualDown(stage, first, out_channels, factors))
            else:
                blocks += stage
        self.down_blocks = nnx.List(blocks)
        self.mid_block = MidBlock(widths[-1], config.mid_attention, rngs=rngs)
        self.norm_out = RMSNorm(widths[-1])
        self.conv_out = CausalConv(widths[-1], 2 * config.z_dim, rngs=rngs)

    def __call__(self, x: Video, past: History = None) -> tuple[Video, History]:
        layers = [self.conv_in, *self.down_blocks, self.mid_block]
        past = past or (None, None)
        x, body = run(layers, x, past[0])
        x, head = self.conv_out(nnx.silu(self.norm_out(x)), past[1])
        return x, (body, head)


class Decoder(nnx.Module):
    """Latents to folded pixels, one chunk of time."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        base_dim = config.decoder_base_dim or config.base_dim
        widths = [base_dim * m for m in (config.dim_mult[-1], *config.dim_mult[::-1])]
        temporal = (*config.temporal_downsample[::-1], False)
        self.conv_in = CausalConv(config.z_dim, widths[0], rngs=rngs)
        self.mid_block = MidBlock(widths[0], config.mid_attention, rngs=rngs)
        blocks = []
        for i, (channels, out_channels) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            upsample = i < len(config.dim_mult) - 1
            if i and not config.residual:
                channels //= 2  # the upsampling before halved them
            blocks.append(
                UpBlock(
                    channels,
                    out_channels,
                    config.num_res_blocks,
                    upsample,
                    temporal[i],
                    config.residual,
                    rngs=rngs,
                )
            )
        self.up_blocks = nnx.List(blocks)
        self.norm_out = RMSNorm(widths[-1])
        self.conv_out = CausalConv(widths[-1], 3 * config.patch_size**2, rngs=rngs)

    def __call__(self, x: Video, past: History = None) -> tuple[Video, History]:
        layers = [self.conv_in, self.mid_block, *self.up_blocks]
        past = past or (None, None)
        x, body = run(layers, x, past[0])
        x, head = self.conv_out(nnx.silu(self.norm_out(x)), past[1])
        return x, (body, head)


class VAE(nnx.Module):
    """Video in [-1, 1] to latents and back; `config` says how much smaller they are."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.quant_conv = CausalConv(2 * config.z_dim, 2 * config.z_dim, (1, 1, 1), rngs=rngs)
        # Latents start with little noise: under much of it a decoder learns to ignore them.
        spread = jnp.repeat(jnp.array([0.0, -5.0]), config.z_dim)
        self.quant_conv.bias[...] = spread
        self.post_quant_conv = CausalConv(config.z_dim, config.z_dim, (1, 1, 1), rngs=rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode(self, video: Pixels) -> tuple[Latents, Latents]:
        """Mean and log-variance of the latents, before `normalise`.

        Raises ValueError unless the video has 1 + temporal_ratio * k frames, and a height and width
        that are multiples of spatial_ratio.
        """
        self._check(video)
        return self._moments(self._encode(video)[0])

    def encode_stream(self, video: Pixels) -> tuple[Latents, Latents]:
        """The same as `encode`, one latent at a time: its memory does not grow with the length."""
        self._check(video)
        return self._moments(_stream(self._encode, video, self.config.temporal_ratio, 1))

    def decode(self, latents: Latents) -> Pixels:
        """The video of latents that are not normalised (see `denormalise`); it is not clipped."""
        return self._decode(latents)[0]

    def decode_stream(
        self, latents: Latents, dtype: jax.typing.DTypeLike | None = None
    ) -> Real[Array, "B T H W 3"]:
        """The same as `decode`, one latent at a time: its memory does not grow with the length.

        With `dtype=jnp.uint8` each chunk becomes pixels in 0..255 before it is stored.
        """

        def step(chunk, past):
            video, past = self._decode(chunk, past)
            if dtype == jnp.uint8:
                video = jnp.round(127.5 * (jnp.clip(video.astype(jnp.float32), -1, 1) + 1))
            return video.astype(dtype or video.dtype), past

        return _stream(step, latents, 1, self.config.temporal_ratio)

    def normalise(self, z: Latents) -> Latents:
        """Latents as the video model sees them: about zero mean and unit variance."""
        if not self.config.latents_mean:
            return z
        mean, std = self._statistics(z.dtype)
        return (z - mean) / std

    def denormalise(self, z: Latents) -> Latents:
        """The inverse of `normalise`."""
        if not self.config.latents_mean:
            return z
        mean, std = self._statistics(z.dtype)
        return z * std + mean

    def _statistics(self, dtype):
        statistics = self.config.latents_mean, self.config.latents_std
        return (jnp.array(a, dtype)[None, None, None, None] for a in statistics)

    def _encode(self, video, past=None):
        p = self.config.patch_size
        x = rearrange(video, "B T (H p) (W q) C -> B T H W (C q p)", p=p, q=p)
        with jax.named_scope("vae_encoder"):
            x, past = self.encoder(x, past)
            return self.quant_conv(x)[0], past

    def _decode(self, latents, past=None):
        p = self.config.patch_size
        with jax.named_scope("vae_decoder"):
            x, past = self.decoder(self.post_quant_conv(latents)[0], past)
        return rearrange(x, "B T H W (C q p) -> B T (H p) (W q) C", p=p, q=p), past

    def _moments(self, x):
        return tuple(jnp.split(x, 2, axis=-1))

    def _check(self, video):
        _, frames, height, width, _ = video.shape
        r, s = self.config.temporal_ratio, self.config.spatial_ratio
        if frames < 1 or (frames - 1) % r:
            lower = (frames - 1) // r * r + 1
            near = f"{lower} or {lower + r}" if frames > 1 else "1"
            raise ValueError(f"A video has 1 + {r} k frames, this one {frames}: give it {near}.")
        if height % s or width % s:
            raise ValueError(
                f"Height and width are multiples of {s}, those of this video are {height} and "
                f"{width}: resize or crop it."
            )


def _stream(step: Callable, x: Array, size: int, out_size: int) -> Array:
    """`step` over frame 0 of `x` and then chunks of `size`, each of which gives `out_size` frames.

    Chunks are read and written in place, so nothing but `x` and the result is as long as `x`.
    """
    first, past = step(x[:, :1], None)
    chunks = (x.shape[1] - 1) // size
    if not chunks:
        return first
    shape = (first.shape[0], 1 + chunks * out_size, *first.shape[2:])
    out = jnp.zeros_like(first, shape=shape).at[:, :1].set(first)

    def body(carry, i):
        past, out = carry
        chunk = lax.dynamic_slice_in_dim(x, 1 + i * size, size, axis=1)
        y, past = step(chunk, past)
        return (past, lax.dynamic_update_slice_in_dim(out, y, 1 + i * out_size, axis=1)), None

    (_, out), _ = lax.scan(body, (past, out), jnp.arange(chunks))
    return out
