"""Training of a DiT with its text encoder: rectified flow on what is not known of a clip."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce, repeat
from jaxtyping import Array

from vjax import conditioning, flow, models, pipeline, sampler, timeline, weights
from vjax.canvas import filled
from vjax.config import Bucket, ConfigError, RunConfig, VAEConfig
from vjax.models import flops
from vjax.models.vae import to_float
from vjax.parallel import rules
from vjax.sampler import Condition
from vjax.tokenizer import Tokenizer
from vjax.training import given
from vjax.training.task import Metrics, Task
from vjax.weights import Bundle

log = logging.getLogger("vjax")

# Bytes of the encoder's largest features on one device. Above, clips are encoded latent by latent,
# whose memory does not grow with their length; below, all at once is faster.
WHOLE_UP_TO = 2**29


class DiTTask(Task):
    """Captions and known frames in, the velocity of the rest out."""

    networks: ClassVar[tuple[str, ...]] = ("dit", "text")
    reads_captions = True

    @classmethod
    def build_on(cls, config: RunConfig) -> tuple[RunConfig, models.Params]:
        """The VAE of another bundle, whose config becomes the model's."""
        if config.vae is None:
            raise ConfigError("A dit run needs the bundle of a trained VAE: --vae=DIRECTORY.")
        trained = weights.load(config.vae, networks=("vae",))
        # The model checks that its networks fit one another.
        model = dataclasses.replace(config.model, vae=trained.config.vae)
        return dataclasses.replace(config, model=model), trained.params

    @property
    def caption_dropout(self) -> float:
        """What teaches the network to do without a text, as guidance needs it."""
        return self.config.dit_loss.caption_dropout

    def loss(
        self, bucket: Bucket, params: models.Params, batch: Mapping[str, Any], key: Array
    ) -> tuple[Array, Metrics]:
        """Squared error of the velocity on unknown tokens, averaged per sample.

        The network is asked as the sampler asks it, with a `Condition`. Noise levels, the point
        between data and noise and the target are float32, whatever the networks compute in.
        """
        model = self.config.model
        known_key, time_key, noise_key = jax.random.split(key, 3)
        clean, condition = self.known(bucket, params, batch, known_key)
        t = self.times(time_key, bucket, clean.shape)
        noise = jax.random.normal(noise_key, clean.shape)
        tau = sampler.own_time(condition, t)
        velocity = models.velocity(model.dit, params["dit"], self.dtype)
        point = flow.interpolate(clean, noise, tau)
        predicted = sampler.predict(velocity, condition, point, tau)
        error = jnp.square(predicted - flow.velocity(clean, noise))
        unknown = jnp.broadcast_to(condition.strength < 1, (*error.shape[:4], 1))
        unknown = rearrange(unknown, "b t h w 1 -> b t h w").astype(jnp.float32)
        error = reduce(error, "b t h w c -> b t h w", "mean") * unknown
        per_sample = reduce(error, "b t h w -> b", "sum") / reduce(unknown, "b t h w -> b", "sum")
        return jnp.mean(per_sample), {}

    def times(self, key: Array, bucket: Bucket, shape: tuple[int, ...]) -> Array:
        """The noise level of each clip, for latents of a shape [B T H W C]."""
        count, frames, height, width, _ = shape
        patch, recipe = self.config.model.dit.patch, self.config.dit_loss
        return flow.sample_times(
            key,
            (count, 1, 1, 1, 1),
            tokens=frames * height * width // (patch[1] * patch[2]),
            distribution=flow.TimeDistribution(
                mean=bucket.time_mean, std=recipe.time_std, uniform_share=recipe.time_uniform
            ),
        )

    def known(
        self, bucket: Bucket, params: models.Params, batch: Mapping[str, Any], key: Array
    ) -> tuple[Array, Condition]:
        """The latents of a batch, and what is known of them.

        It differs per sample: nothing, the first frame or a prefix; in buckets with anchors also
        single frames or a suffix; in buckets with boxes what lies outside a region of space; in
        buckets with references pictures of what the clip shows, in other places; in buckets that
        lead, clips begin before the window, which then starts with a latent of several frames; in
        buckets with spans each clip goes on as the one before it in the batch, and each half hears
        its own caption. Known frames are encoded on their own, so that nothing leaks through the
        VAE.
        """
        model, recipe, dtype = self.config.model, self.config.dit_loss, self.dtype
        prefix_key, anchor_key, box_key, noise_key = jax.random.split(key, 4)
        encode = encoder(model.vae, params["vae"], dtype)
        video = to_float(batch["video"])
        if bucket.spans:
            video = _halved(video, 1 + model.vae.temporal_ratio * (self._cut(bucket) - 1), axis=1)

        with jax.named_scope("encode"):
            clean = encode(video)[:, bucket.lead :]
        count, frames, height, width, _ = clean.shape
        with jax.named_scope("text"):
            reader = models.bind(model.text, params["text"])
            text = reader(batch["ids"], batch["mask"], dtype=dtype)
        text_bias = None
        if bucket.spans:
            first = jnp.arange(frames) < self._cut(bucket)
            heard = jnp.repeat(jnp.stack([first, ~first], axis=1), text.shape[1], axis=1)
            bias = jnp.where(heard, 0, -jnp.inf).astype(jnp.float32)
            text_bias = repeat(bias, "t s -> b t s", b=count)
            text = jnp.concatenate([text, jnp.roll(text, 1, axis=0)], axis=1)

        known = given.prefix(prefix_key, recipe, bucket, count, frames)[..., None, None]
        source = clean
        anchors = jnp.zeros((count, 0, *clean.shape[2:]))
        anchor_positions = jnp.zeros((count, 0))
        if bucket.anchors:
            anchors, anchor_positions = given.anchors(
                anchor_key, encode, model.vae.temporal_ratio, video, bucket.anchors
            )
        if bucket.references:
            looks = given.references(
                jax.random.fold_in(anchor_key, 1), encode, video, bucket.references
            )
            nowhere = bucket.lead + conditioning.reference_positions(bucket.references)
            nowhere = repeat(jnp.asarray(nowhere), "a -> b a", b=count)
            anchors = jnp.concatenate([anchors, looks], axis=1)
            anchor_positions = jnp.concatenate([anchor_positions, nowhere], axis=1)
        if bucket.boxes:
            box = given.boxes(box_key, model.dit.patch, count, height, width)[:, None]
            ratio = model.vae.spatial_ratio
            pixels = repeat(box, "b 1 h w -> b 1 (h p) (w q) 1", p=ratio, q=ratio)
            seen = filled(video, pixels.astype(video.dtype))  # as sampling encodes it
            source = jnp.where(known[..., None], clean, encode(seen))
            known = known | box
        if recipe.known_noise:
            level_key, noise_key = jax.random.split(noise_key)
            level = recipe.known_noise * jax.random.uniform(level_key, (count, 1, 1, 1, 1))
            source += level * jax.random.normal(noise_key, clean.shape)
        return clean, Condition(
            source=source,
            strength=conditioning.per_patch(known[..., None].astype(jnp.float32), model.dit.patch),
            anchors=anchors,
            positions=repeat(
                bucket.lead + jnp.arange(frames, dtype=jnp.float32), "t -> b t", b=count
            ),
            anchor_positions=anchor_positions,
            text=text,
            negative=text,  # nothing is guided
            text_bias=text_bias,
        )

    def _cut(self, bucket: Bucket) -> int:
        """The latent frame with which the second half of a clip begins."""
        frames = 1 + (bucket.frames - 1) // self.config.model.vae.temporal_ratio
        return (frames + 1) // 2

    def flops(self, bucket: Bucket) -> int:
        """Those of the DiT and the text encoder, without recomputation and encoding of clips."""
        model = self.config.model
        length = model.text.max_length
        # A backward pass costs twice the forward one; a frozen text encoder has none.
        text = (3 if "text" in self.trained else 1) * flops.text_flops(model.text, length)
        read = length * (2 if bucket.spans else 1)
        return bucket.batch * (3 * flops.dit_flops(model.dit, self.tokens(bucket), read) + text)

    def tokens(self, bucket: Bucket) -> int:
        """How many the DiT sees of each clip."""
        model = self.config.model
        ratio, (_, ph, pw) = model.vae.spatial_ratio, model.dit.patch
        frames = 1 + (bucket.frames - 1) // model.vae.temporal_ratio
        frames += bucket.anchors + bucket.references
        height, width = bucket.size
        return frames * (height // ratio // ph) * (width // ratio // pw)

    def check_preview(self, tokenizer: Tokenizer | None) -> None:
        """Raises ConfigError for a prompt, a shape or a solver that cannot be sampled."""
        if not self.config.sample_every:
            return
        # What is asked for is checked without parameters.
        pipe = pipeline.Pipeline(
            Bundle(self.config.model, {name: {} for name in self.config.model.networks}, tokenizer)
        )
        for prompt in self.config.sample_prompts:
            try:
                plan, _ = pipe.check(timeline.Timeline(prompt))
            except timeline.RequestError as error:
                raise ConfigError(f"sample_prompts has {prompt!r}: {error}") from error
            for warning in plan.warnings:
                log.warning("sample_prompts has %r: %s", prompt, warning)

    def preview(self, bundle: Bundle):
        """A video of each of the config's prompts, side by side."""
        prompts = self.config.sample_prompts
        if not prompts:
            return None, {}
        pipe = pipeline.Pipeline(bundle, mesh=self.config.mesh)
        shown = [pipe(timeline.Timeline(prompt), seed=i) for i, prompt in enumerate(prompts)]
        return np.concatenate(shown, axis=2), {}

    def _side(self) -> int:
        return super()._side() * max(self.config.model.dit.patch)


def encoder(config: VAEConfig, params: models.Params, dtype: Any) -> Callable[[Array], Array]:
    """Clips [B T H W 3] in [-1, 1] to normalised latents, in float32."""
    vae = models.bind(config, jax.lax.stop_gradient(params))

    def encode(video: Array) -> Array:
        # Sampling encodes in float32. With bfloat16 the default model's latents are off by
        # 0.0085 (root mean square, where theirs is 1), and frames decoded of them by 0.12
        # levels of 255, where the VAE itself is off by 5 to 8: not worth twice the memory.
        video = video.astype(dtype)
        features = video.nbytes // 3 // config.patch_size**2 * config.base_dim
        devices = rules.count("data", "fsdp", "context")
        whole = features <= WHOLE_UP_TO * devices
        moments = vae.encode(video) if whole else vae.encode_stream(video)
        return vae.normalise(moments[0].astype(jnp.float32))

    return encode


def _halved(x: Array, at: int, axis: int) -> Array:
    """Each sample up to a place, and from there on the one before it."""
    head, _ = jnp.split(x, [at], axis=axis)
    _, tail = jnp.split(jnp.roll(x, 1, axis=0), [at], axis=axis)
    return jnp.concatenate([head, tail], axis=axis)
