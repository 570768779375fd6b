"""The causal video autoencoder: pixels to latents and back, whole or streamed over time.

Wan 2.1's network (Wan et al. 2025, arXiv:2503.20314). The first latent is one frame and every
further latent is `temporal_ratio` frames, so a single image is a video of length 1. No layer looks
ahead, and each returns the history that its next chunk needs: `encode` and `decode` run over the
whole video as one chunk, `encode_stream` and `decode_stream` scan over it latent by latent, and
both give the same result.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Num

from vjax.config import VAEConfig
from vjax.models.convolution import CausalConv, Downsample, Upsample, Video, kernel_init

Latents = Float[Array, "B t h w z"]
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
        y = rearrange(jax.nn.dot_product_attention(q, k, v), "(B T) (H W) 1 C -> B T H W C",
                      B=x.shape[0], H=x.shape[2])
        return x + self.proj(y)[0], None


def run(layers, x: Video, past: History) -> tuple[Video, History]:
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


class UpBlock(nnx.Module):
    """Residual blocks and then, except in the last stage, an upsampling that halves the channels."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        num_res_blocks: int,
        upsample: bool,
        temporal: bool,
        *,
        rngs: nnx.Rngs,
    ):
        widths = [channels] + [out_channels] * (num_res_blocks + 1)
        self.resnets = nnx.List(
            [ResBlock(a, b, rngs=rngs) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        )
        self.upsamplers = nnx.List(
            [Upsample(out_channels, out_channels // 2, temporal, rngs=rngs)] if upsample else []
        )

    def __call__(self, x: Video, past: History = None) -> tuple[Video, History]:
        return run([*self.resnets, *self.upsamplers], x, past)


class Encoder(nnx.Module):
    """Folded pixels to latent moments, one chunk of time."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        widths = [config.base_dim * m for m in (1, *config.dim_mult)]
        self.conv_in = CausalConv(3 * config.patch_size**2, widths[0], rngs=rngs)
        blocks = []
        stages = list(zip(widths[:-1], widths[1:], strict=True))
        for i, (channels, out_channels) in enumerate(stages):
            for _ in range(config.num_res_blocks):
                blocks.append(ResBlock(channels, out_channels, rngs=rngs))
                channels = out_channels
            if i < len(stages) - 1:
                blocks.append(Downsample(out_channels, config.temporal_downsample[i], rngs=rngs))
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
            channels = channels // 2 if i else channels  # the upsampling before halved them
            upsample = i < len(config.dim_mult) - 1
            blocks.append(
                UpBlock(
                    channels, out_channels, config.num_res_blocks, upsample, temporal[i], rngs=rngs
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

    def encode(self, video: Float[Array, "B T H W 3"]) -> tuple[Latents, Latents]:
        """Mean and log-variance of the latents, before `normalise`."""
        self._check(video)
        moments, _ = self._encode_chunk(video)
        return self._split(moments)

    def encode_stream(self, video: Float[Array, "B T H W 3"]) -> tuple[Latents, Latents]:
        """The same as `encode`, one latent at a time: memory does not grow with the length."""
        self._check(video)
        first, past = self._encode_chunk(video[:, :1])

        def step(past, chunk):
            moments, past = self._encode_chunk(chunk, past)
            return past, moments

        chunks = rearrange(video[:, 1:], "B (t r) H W C -> t B r H W C",
                           r=self.config.temporal_ratio)
        _, rest = lax.scan(step, past, chunks)
        rest = rearrange(rest, "t B 1 h w z -> B t h w z")
        return self._split(jnp.concatenate([first, rest], axis=1))

    def decode(self, latents: Latents) -> Float[Array, "B T H W 3"]:
        """The video of latents that are not normalised (see `denormalise`); it is not clipped."""
        return self._decode_chunk(latents)[0]

    def decode_stream(self, latents: Latents, dtype=None) -> Num[Array, "B T H W 3"]:
        """The same as `decode`, one latent at a time: memory does not grow with the length.

        With `dtype=jnp.uint8` each chunk becomes pixels in 0..255 before it is stored.
        """
        def finish(x):
            if dtype is None:
                return x
            if dtype == jnp.uint8:
                x = jnp.round((jnp.clip(x.astype(jnp.float32), -1, 1) + 1) * 127.5)
            return x.astype(dtype)

        first, past = self._decode_chunk(latents[:, :1])

        def step(past, chunk):
            video, past = self._decode_chunk(chunk[:, None], past)
            return past, finish(video)

        _, rest = lax.scan(step, past, rearrange(latents[:, 1:], "B t h w z -> t B h w z"))
        rest = rearrange(rest, "t B r H W C -> B (t r) H W C")
        return jnp.concatenate([finish(first), rest], axis=1)

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
        mean = jnp.array(self.config.latents_mean, dtype)[None, None, None, None]
        std = jnp.array(self.config.latents_std, dtype)[None, None, None, None]
        return mean, std

    def _split(self, moments):
        return tuple(jnp.split(moments, 2, axis=-1))

    def _encode_chunk(self, video, past=None):
        p = self.config.patch_size
        x = rearrange(video, "B T (H p) (W q) C -> B T H W (C q p)", p=p, q=p)
        with jax.named_scope("vae_encoder"):
            x, past = self.encoder(x, past)
            return self.quant_conv(x)[0], past

    def _decode_chunk(self, latents, past=None):
        p = self.config.patch_size
        with jax.named_scope("vae_decoder"):
            x, past = self.decoder(self.post_quant_conv(latents)[0], past)
        return rearrange(x, "B T H W (C q p) -> B T (H p) (W q) C", p=p, q=p), past

    def _check(self, video):
        _, frames, height, width, _ = video.shape
        r, s = self.config.temporal_ratio, self.config.spatial_ratio
        if frames % r != 1 % r:
            lower = (frames - 1) // r * r + 1
            near = f"{lower} or {lower + r}" if lower > 0 else f"{lower + r}"
            raise ValueError(
                f"A video must have 1 + {r} k frames, got {frames}: use {near} frames."
            )
        if height % s or width % s:
            raise ValueError(
                f"Height and width must be multiples of {s}, got {height} x {width}: "
                f"resize or crop the video first."
            )
