"""What a run shows of itself while it trains: reconstructions of a VAE, samples of a DiT."""

import dataclasses
import logging
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from vjax import models
from vjax.config import ModelConfig, RunConfig
from vjax.data import loader
from vjax.training.loss import to_float

log = logging.getLogger("vjax")

CLIPS = 16  # held-out clips that a VAE is measured on


def held_out_clips(config: RunConfig, count: int = CLIPS) -> np.ndarray:
    """Whole clips in the model's native shape that the run does not train on."""
    source = loader.make_source(config.data, config.seed, held_out=True)
    model = config.model
    bucket = dataclasses.replace(
        config.data.buckets[0],
        frames=model.frames,
        height=model.height,
        width=model.width,
        crop=None,
    )
    return np.stack([source(i, bucket)[0] for i in range(count)])


def with_latent_statistics(config: RunConfig, params: models.Params) -> ModelConfig:
    """The model whose VAE normalises its latents to zero mean and, over all, unit variance.

    They are those of the posterior's means, which is what a DiT sees. All channels share one
    deviation: a channel that carries little stays small next to the others.
    """
    vae_config = dataclasses.replace(config.model.vae, latents_mean=(), latents_std=())

    @jax.jit
    def encode(params, video):
        return models.bind(vae_config, params).encode(to_float(video))[0]

    means = np.concatenate([encode(params, clip[None]) for clip in held_out_clips(config)])
    axes = tuple(range(means.ndim - 1))
    deviation = np.sqrt(means.var(axes).mean())
    vae_config = dataclasses.replace(
        vae_config,
        latents_mean=_rounded(means.mean(axes)),
        latents_std=_rounded(np.full(means.shape[-1], deviation)),
    )
    return dataclasses.replace(config.model, vae=vae_config)


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(round(x, 5)) for x in values.astype(float))


@jax.jit(static_argnames="config")
def _reconstruct(config, params, video):
    vae = models.bind(config, params)
    return jnp.clip(vae.decode(vae.encode(to_float(video))[0]), -1, 1)


def write(
    config: RunConfig, bundle: pathlib.Path, directory: pathlib.Path, step: int, writer
) -> None:
    """Writes one video of the bundle's results to `directory` and figures to TensorBoard."""
    from vjax import video as media
    from vjax import weights

    if config.trains == "dit" and not config.sample_prompts:
        return
    directory.mkdir(parents=True, exist_ok=True)
    loaded = weights.load(str(bundle))
    model, params = loaded.config, loaded.params
    if config.trains == "vae":
        clips = held_out_clips(config)
        decoded = [np.asarray(_reconstruct(model.vae, params["vae"], c[None]))[0] for c in clips]
        errors = [np.mean((d - c / 127.5 + 1) ** 2) for d, c in zip(decoded, clips, strict=True)]
        psnr = float(np.mean(10 * np.log10(4 / np.array(errors))))
        writer.add_scalar("held_out_psnr", psnr, step)
        log.info("held-out PSNR %.2f dB", psnr)
        shown = [
            np.concatenate([clip, ((d + 1) * 127.5 + 0.5).astype(np.uint8)], axis=1)
            for clip, d in zip(clips[:6], decoded[:6], strict=True)
        ]
    else:
        import vjax
        from vjax import pipeline

        pipe = pipeline.Pipeline(loaded)
        shown = [pipe(vjax.text(p), seed=i) for i, p in enumerate(config.sample_prompts)]
    path = directory / f"{step:07d}.mp4"
    media.write(path, np.concatenate(shown, axis=2), model.fps, overwrite=True)
