"""Training of a DiT with its text encoder: rectified flow on what is not known of a clip."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce, repeat
from jaxtyping import Array

from vjax import flow, models, pipeline, timeline
from vjax.config import Bucket, RunConfig
from vjax.models.vae import to_float
from vjax.training.task import Metrics, Task
from vjax.weights import Bundle


class DiTTask(Task):
    """Captions and known frames in, the velocity of the rest out."""

    networks = ("dit", "text")

    @property
    def caption_dropout(self) -> float:
        """What teaches the network to do without a text, as guidance needs it."""
        return self.config.dit_loss.caption_dropout

    def loss(
        self, bucket: Bucket, params: models.Params, batch: Mapping[str, Any], key: Array
    ) -> tuple[Array, Metrics]:
        """Squared error of the velocity on unknown tokens, averaged per sample.

        What is known differs per sample: nothing, the first frame or a prefix; in buckets with
        anchors also single frames or a suffix; in buckets with boxes what lies outside a region of
        space. Known frames are encoded on their own, so that nothing leaks through the VAE.
        """
        config, dtype = self.config, self.dtype
        model, weights = config.model, config.dit_loss
        keys = iter(jax.random.split(key, 12))
        vae = models.bind(model.vae, jax.lax.stop_gradient(params["vae"]))
        video = to_float(batch["video"])
        latents = vae.normalise(vae.encode(video)[0])
        count, frames, height, width, _ = latents.shape

        with jax.named_scope("text"):
            encoder = models.bind(model.text, params["text"])
            text = encoder(batch["ids"], batch["mask"]).astype(dtype)

        # What is known.
        grid = (count, frames, 1, 1)
        known = _known_prefix(next(keys), weights, bucket, count, frames)
        known = jnp.broadcast_to(known[:, :, None, None], grid)
        source = latents
        anchors = jnp.zeros((count, 0, *latents.shape[2:]))
        anchor_positions = jnp.zeros((count, 0))
        if bucket.anchors:
            anchors, anchor_positions = _anchors(next(keys), vae, video, bucket.anchors)
        if bucket.boxes:
            box = _boxes(next(keys), config, count, height, width)
            ratio = model.vae.spatial_ratio
            pixels = repeat(box, "b h w -> b 1 (h p) (w q) 1", p=ratio, q=ratio)
            outside = jax.random.bernoulli(next(keys), 0.9, (count,))  # a share of whole clips
            box = box & outside[:, None, None]
            black = -jnp.ones_like(video)  # as in a canvas
            source = vae.normalise(vae.encode(jnp.where(pixels, video, black))[0])
            source = jnp.where(known[..., None], latents, source)
            known = known | box[:, None]

        patch = model.dit.patch
        tokens = frames * height * width // (patch[1] * patch[2])
        t = flow.sample_times(
            next(keys),
            (count,),
            tokens=tokens,
            distribution=flow.TimeDistribution(
                mean=bucket.time_mean, std=weights.time_std, uniform_share=weights.time_uniform
            ),
        )
        tau = jnp.where(known, 0.0, t[:, None, None, None])
        noise = jax.random.normal(next(keys), latents.shape)
        if weights.known_noise:
            level = weights.known_noise * jax.random.uniform(next(keys), (count, 1, 1, 1, 1))
            source += level * jax.random.normal(next(keys), latents.shape)
        point = flow.interpolate(latents, noise, tau[..., None])
        point = jnp.where(known[..., None], source, point)

        dit = models.bind(model.dit, params["dit"])
        predicted = dit(
            point.astype(dtype),
            tau if bucket.boxes else tau[:, :, 0, 0],
            text,
            positions=jnp.arange(frames, dtype=jnp.float32),
            anchors=anchors.astype(dtype),
            anchor_positions=anchor_positions,
        )
        error = jnp.square(predicted.astype(jnp.float32) - flow.velocity(latents, noise))
        unknown = jnp.broadcast_to(~known, error.shape[:4]).astype(jnp.float32)
        error = reduce(error, "b t h w c -> b t h w", "mean") * unknown
        per_sample = reduce(error, "b t h w -> b", "sum") / reduce(unknown, "b t h w -> b", "sum")
        return jnp.mean(per_sample), {}

    def preview(self, bundle: Bundle):
        """A video of each of the config's prompts, side by side."""
        prompts = self.config.sample_prompts
        if not prompts:
            return None, {}
        pipe = pipeline.Pipeline(bundle)
        shown = [pipe(timeline.Timeline(prompt), seed=i) for i, prompt in enumerate(prompts)]
        return np.concatenate(shown, axis=2), {}

    def _side(self) -> int:
        return super()._side() * max(self.config.model.dit.patch)


def _known_prefix(key, weights, bucket: Bucket, count: int, frames: int) -> Array:
    """Which latent frames are known from the start of each sample: [B T], at least one is not."""
    choice_key, length_key = jax.random.split(key)
    choice = jax.random.uniform(choice_key, (count,))
    length = jax.random.randint(length_key, (count,), 1, max(frames, 2))
    known = jnp.where(choice < weights.nothing + weights.first_frame, 1, length)
    known = jnp.where(choice < weights.nothing, 0, known)
    if frames == 1:
        known = jnp.zeros_like(known)
    return jnp.arange(frames)[None] < known[:, None]


def _anchors(key, vae, video: Array, anchors: int) -> tuple[Array, Array]:
    """Per sample either single frames from anywhere or the clip's end: latents and positions."""
    count, frames = video.shape[:2]
    ratio = vae.config.temporal_ratio
    frame_key, last_key, choice_key = jax.random.split(key, 3)
    index = jax.random.randint(frame_key, (count, anchors), 0, frames)
    has_last = jax.random.bernoulli(last_key, 0.5, (count,))
    index = index.at[:, 0].set(jnp.where(has_last, frames - 1, index[:, 0]))
    picked = jnp.take_along_axis(video, index[:, :, None, None, None], axis=1)
    single = vae.encode(rearrange(picked, "b a h w c -> (b a) 1 h w c"))[0]
    single = vae.normalise(rearrange(single, "(b a) 1 h w c -> b a h w c", a=anchors))
    positions = index / ratio
    if anchors == 1:
        return single, positions
    start = frames - (1 + ratio * (anchors - 1))
    end = vae.normalise(vae.encode(video[:, start:])[0])
    end_positions = jnp.broadcast_to(start / ratio + jnp.arange(anchors)[None], positions.shape)
    is_end = jax.random.bernoulli(choice_key, 0.6, (count,))
    return (
        jnp.where(is_end[:, None, None, None, None], end, single),
        jnp.where(is_end[:, None], end_positions, positions),
    )


def _boxes(key, config: RunConfig, count: int, height: int, width: int) -> Array:
    """What lies outside (or, for a third, inside) of a random box on the patch grid: [B H W]."""
    _, ph, pw = config.model.dit.patch
    low_key, high_key, side_key = jax.random.split(key, 3)
    cells = jnp.array([[height // ph, width // pw]])
    low = jax.random.randint(low_key, (count, 2), 0, cells)
    high = jax.random.randint(high_key, (count, 2), low + 1, cells + 1)
    rows = jnp.arange(height)[None] // ph
    columns = jnp.arange(width)[None] // pw
    in_rows = (rows >= low[:, :1]) & (rows < high[:, :1])
    in_columns = (columns >= low[:, 1:]) & (columns < high[:, 1:])
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    keeps_inside = jax.random.bernoulli(side_key, 1 / 3, (count,))
    box = jnp.where(keeps_inside[:, None, None], inside, ~inside)
    return box & ~box.all(axis=(1, 2), keepdims=True)  # something must be left to make
