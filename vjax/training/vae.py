"""Training of a VAE: reconstruction, and the statistics of its latents."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import reduce
from jaxtyping import Array

from vjax import models
from vjax.config import Bucket, ConfigError, ModelConfig, RunConfig, VAEConfig, VAELossConfig
from vjax.data import loader
from vjax.models.flops import decode_flops, encode_flops
from vjax.models.vae import to_float, to_uint8
from vjax.parallel import mesh as meshes
from vjax.tokenizer import Tokenizer
from vjax.training.task import Metrics, Task
from vjax.weights import Bundle

log = logging.getLogger("vjax")

CLIPS = 16  # held-out clips that a VAE is measured on


class VAETask(Task):
    """Pixels in, pixels out."""

    networks = ("vae",)

    def check(self, bucket: Bucket, devices: int) -> None:
        """As for every task; and a VAE has neither tokens nor heads to share."""
        mesh = self.config.mesh
        if mesh.context * mesh.tensor > 1:
            raise ConfigError(
                "Devices share the clips of a vae run, and nothing else: leave mesh.context and "
                "mesh.tensor out."
            )
        super().check(bucket, devices)

    def loss(
        self, bucket: Bucket, params: models.Params, batch: Mapping[str, Any], key: Array
    ) -> tuple[Array, Metrics]:
        """Absolute and squared error of pixels, a KL term, and equivariance under scaling.

        Pixels, noise and the terms are float32, whatever the network computes in.
        Decoding latents at half the size should give the video at half the size (EQ-VAE,
        arXiv:2502.09509): such latents are smooth, and a diffusion model learns them faster.
        """
        weights, dtype = self.config.vae_loss, self.dtype
        video = to_float(batch["video"])
        vae = models.bind(self.config.model.vae, params["vae"])

        def decode(z: Array) -> Array:
            return vae.decode(z.astype(dtype)).astype(jnp.float32)

        mean, logvar = (x.astype(jnp.float32) for x in vae.encode(video.astype(dtype)))
        logvar = jnp.clip(logvar, -20, 10)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
        decoded = decode(z)
        error = _reconstruction(decoded, video, weights)
        kl = 0.5 * jnp.mean(jnp.square(mean) + jnp.exp(logvar) - 1 - logvar)
        loss = error + weights.kl * kl
        if weights.equivariance:
            half = "b t (h 2) (w 2) c -> b t h w c"
            small = reduce(video, half, "mean")
            again = decode(reduce(z, half, "mean"))
            loss += weights.equivariance * _reconstruction(again, small, weights)
        squared = jnp.mean(jnp.square(jnp.clip(decoded, -1, 1) - video))
        return loss, {"psnr": 10 * jnp.log10(4 / squared), "kl": kl, "error": error}

    def flops(self, bucket: Bucket) -> int:
        """Those of the way to latents and back, and back again at half the size."""
        vae = _plain(self.config.model.vae)
        frames, (height, width) = bucket.frames, bucket.size
        forward = encode_flops(vae, frames, height, width) + decode_flops(
            vae, frames, height, width
        )
        if self.config.vae_loss.equivariance:
            forward += decode_flops(vae, frames, height // 2, width // 2)
        return 3 * bucket.batch * forward  # a backward pass costs twice the forward one

    def model(self, params: models.Params) -> ModelConfig:
        """The model whose VAE normalises its latents to zero mean and, over all, unit variance.

        They are those of the posterior's means, which is what a DiT sees. All channels share one
        deviation: a channel that carries little stays small next to the others.
        """
        plain = _plain(self.config.model.vae)
        clips = held_out_clips(self.config)
        means = np.concatenate([_encode(plain, params["vae"], clip[None]) for clip in clips])
        axes = tuple(range(means.ndim - 1))
        deviation = np.sqrt(means.var(axes).mean())
        vae = dataclasses.replace(
            plain,
            latents_mean=_rounded(means.mean(axes)),
            latents_std=_rounded(np.full(means.shape[-1], deviation)),
        )
        return dataclasses.replace(self.config.model, vae=vae)

    def check_preview(self, tokenizer: Tokenizer | None) -> None:
        """Raises ConfigError for a native shape that the VAE or the data cannot have."""
        model = self.config.model
        side, ratio = model.vae.spatial_ratio, model.vae.temporal_ratio
        if model.height % side or model.width % side or model.frames % ratio != 1 % ratio:
            raise ConfigError(
                f"The model's own shape, {model.frames} frames of {model.width}x{model.height}, "
                f"does not suit its VAE: model.frames must be 1 + {ratio} k, model.height and "
                f"model.width multiples of {side}."
            )
        held_out_clips(self.config, 1)

    def preview(self, bundle: Bundle):
        """Clips above, their reconstructions below."""
        clips = held_out_clips(self.config)
        # The bundle's statistics are new each time, and would compile the same program again.
        vae, params = _plain(bundle.config.vae), bundle.params["vae"]
        mesh, decoded = meshes.make_mesh(self.config.mesh), []
        with meshes.use(mesh, self.config.mesh):
            for clip in meshes.replicated(mesh, list(clips[:, None])):
                decoded.append(np.asarray(meshes.readable(_reconstruct(vae, params, clip)))[0])
        errors = [np.mean((d - to_float(c)) ** 2) for d, c in zip(decoded, clips, strict=True)]
        psnr = float(np.mean(10 * np.log10(4 / np.array(errors))))
        log.info("held-out PSNR %.2f dB", psnr)
        shown = [
            np.concatenate([clip, to_uint8(d)], axis=1)
            for clip, d in zip(clips[:6], decoded[:6], strict=True)
        ]
        return np.concatenate(shown, axis=2), {"held_out_psnr": psnr}

    def _side(self) -> int:
        side = super()._side()
        return 2 * side if self.config.vae_loss.equivariance else side  # latents are halved


def held_out_clips(config: RunConfig, count: int | None = None) -> np.ndarray:
    """Whole clips in the model's native shape that the run does not train on."""
    source = loader.make_source(config.data, config.seed, config.model.fps, held_out=True)
    model = config.model
    bucket = Bucket(frames=model.frames, height=model.height, width=model.width, batch=1)
    return np.stack([source(i, bucket, 0.0)[0] for i in range(count or CLIPS)])


def _plain(config: VAEConfig) -> VAEConfig:
    """What a network is compiled from: its config without the statistics of its latents."""
    return dataclasses.replace(config, latents_mean=(), latents_std=())


def _reconstruction(decoded: Array, video: Array, weights: VAELossConfig) -> Array:
    difference = decoded - video
    return jnp.mean(jnp.abs(difference)) + weights.squared * jnp.mean(jnp.square(difference))


@jax.jit(static_argnames="config")
def _encode(config: VAEConfig, params, video):
    return models.bind(config, params).encode(to_float(video))[0]


@jax.jit(static_argnames="config")
def _reconstruct(config: VAEConfig, params, video):
    vae = models.bind(config, params)
    return jnp.clip(vae.decode(vae.encode(to_float(video))[0]), -1, 1)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(round(x, 5)) for x in values.astype(float))
