"""Training goes on from a model, one of ours or a published one: all of its DiT, or a LoRA.

Everything else stays as it is. The DiT is shown what the sampler shows it, in its family's way of
taking known frames (`vjax.conditioning`). A published model's times are drawn with the shift that
it samples with.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array

from vjax import conditioning, models, weights
from vjax.config import Bucket, ConfigError, ModelConfig, RunConfig
from vjax.models import flops, low_rank
from vjax.models.vae import to_float
from vjax.precision import kept_as
from vjax.sampler import Condition
from vjax.tokenizer import Tokenizer
from vjax.training import given, lora
from vjax.training.dit import DiTTask, encoder
from vjax.training.resume import check_start
from vjax.weights import Bundle

# What buckets may have that not all models take.
_OPTIONS = ("anchors", "boxes", "references", "lead", "spans")


def tunes(config: RunConfig) -> bool:
    """Whether a run goes on with a model that it does not describe itself, or adds to one."""
    return config.trains == "dit" and (not config.model.networks or config.lora is not None)


class TuneTask(DiTTask):
    """Captions and known frames in, the velocity of the rest out, by a model that others made."""

    networks: ClassVar[tuple[str, ...]] = ("dit", "low", "lora")
    exact: ClassVar[tuple[str, ...]] = ("vae", "image")  # as sampling holds them

    @property
    def trained(self) -> tuple[str, ...]:
        return (self.config.expert,) if self.config.lora is None else ("lora",)

    @property
    def saves(self) -> str:
        return "bundle" if self.config.lora is None else "lora"

    def check(self, bucket: Bucket, devices: int) -> None:
        super().check(bucket, devices)
        kind, problem = self.config.model.conditioning, None
        takes = {"anchors": _OPTIONS, "control": ("boxes", "references")}.get(kind, ())
        if others := [name for name in _OPTIONS if getattr(bucket, name) and name not in takes]:
            problem = f'a model that takes known frames as "{kind}" takes no {", ".join(others)}'
        elif kind == "channels" and bucket.frames == 1:
            problem = "a model that is given the first frame learns those after it: add frames"
        if problem is not None:
            raise ConfigError(f"{bucket} cannot be trained on: {problem}.")
        if self.config.dit_loss.known_noise and kind != "anchors":
            raise ConfigError(
                "dit_loss.known_noise is for models of our own, as others are given what is known "
                "without noise: leave it out."
            )

    def flops(self, bucket: Bucket) -> int:
        """A frozen matrix has no gradient of its own, which is a third of what it costs."""
        found, model = super().flops(bucket), self.config.model
        if self.config.lora is None:
            return found
        read = model.text.max_length * (2 if bucket.spans else 1)
        return found - bucket.batch * flops.dit_flops(model.dit, self.tokens(bucket), read)

    def loss(
        self, bucket: Bucket, params: models.Params, batch: Mapping[str, Any], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        return super().loss(bucket, {**params, "dit": self.expert(params)}, batch, key)

    def expert(self, params: models.Params) -> models.Params:
        """The parameters of the DiT that learns, with what has been learned."""
        found, low = params[self.config.expert], self.config.lora
        return found if low is None else lora.changed(found, params["lora"], low.alpha / low.rank)

    def times(self, key: Array, bucket: Bucket, shape: tuple[int, ...]) -> Array:
        """Of each clip, or of each latent frame or block of them, where a model has such times."""
        model, recipe = self.config.model, self.config.dit_loss
        if model.conditioning == "anchors":
            return super().times(key, bucket, shape)
        count, frames = shape[:2]
        block = model.dit.frame_block or 1
        each = -(-frames // block) if model.conditioning == "per_frame" else 1
        t = times(
            key,
            (count, each),
            model.sampler.shift,
            sides(model, self.config.expert),
            mean=bucket.time_mean,
            std=recipe.time_std,
            uniform=recipe.time_uniform,
        )
        t = repeat(t, "b n -> b (n k) 1 1 1", k=block if each > 1 else 1)
        return t[:, :frames]

    def known(
        self, bucket: Bucket, params: models.Params, batch: Mapping[str, Any], key: Array
    ) -> tuple[Array, Condition]:
        """The latents of a batch, and what is known of them in the way of the model's family."""
        model, recipe = self.config.model, self.config.dit_loss
        if model.conditioning == "anchors":
            return super().known(bucket, params, batch, key)
        known_key, reference_key = jax.random.split(key)
        video = to_float(batch["video"]).astype(jnp.float32)
        encode = encoder(model.vae, params["vae"], jnp.float32)  # as sampling does
        with jax.named_scope("encode"):
            clean, source, known = given.in_place(known_key, model, recipe, bucket, encode, video)
        with jax.named_scope("text"):
            reader = models.bind(model.text, params["text"])
            text = reader(batch["ids"], batch["mask"], dtype=self.dtype)
        count = len(clean)
        inputs: dict[str, Array] = {}
        if conditioning.beside(model):
            kept = given.kept(known_key, model, recipe, bucket, count)
            inputs |= given.beside(model, encode, video, kept)
        if wanted := bucket.references:
            # They are frames before all others, which the network makes as well.
            looks = given.references(reference_key, encode, video, wanted)
            lay = jax.vmap(lambda *each: conditioning.references_before(each[0], [*each[1]]))
            inputs["control"] = lay(inputs["control"], looks)
            clean = source = jnp.concatenate([looks[:, ::-1], clean], axis=1)
            known = jnp.pad(known, [(0, 0), (wanted, 0)])
        if "images" in batch:
            with jax.named_scope("look"):
                look = models.bind(model.image, params["image"])
                images = rearrange(batch["images"], "b i h w c -> (b i) h w c")
                tokens = look(images.astype(jnp.float32) / 255)
                inputs["image"] = rearrange(tokens, "(b i) s d -> b (i s) d", b=count)
        if model.dit.frame_rates:
            rate = conditioning.nearest_rate(model.dit, model.fps)
            inputs["frame_rate"] = jnp.full((count,), rate)
        positions = jnp.arange(clean.shape[1], dtype=jnp.float32) - wanted
        return clean, Condition(
            source=source,
            strength=repeat(known.astype(jnp.float32), "b t -> b t 1 1 1"),
            anchors=jnp.zeros((count, 0, *clean.shape[2:])),
            positions=repeat(positions, "t -> b t", b=count),
            anchor_positions=jnp.zeros((count, 0)),
            text=text,
            negative=text,  # nothing is guided
            inputs=inputs,
        )

    def check_preview(self, tokenizer: Tokenizer | None) -> None:
        config = self.config
        if config.sample_every and config.sample_prompts and config.model.boundary is not None:
            raise ConfigError(
                "A model with two experts shows no samples while one of them learns: leave "
                "sample_prompts empty."
            )
        super().check_preview(tokenizer)

    def preview(self, bundle: Bundle):
        if not self.config.sample_prompts:
            return None, {}
        whole = jax.jit(lambda params: low_rank.merged(self.expert(params)))(bundle.params)
        params = {**bundle.params, "dit": whole}
        params.pop("lora", None)
        return super().preview(dataclasses.replace(bundle, params=params))

    def whole(self, frozen: models.Params, learned: models.Params) -> models.Params:
        """What `save` writes."""
        return super().whole(frozen, learned) if self.config.lora is None else learned

    def save(
        self, directory: pathlib.Path, params: models.Params, tokenizer: Tokenizer | None, said: str
    ) -> None:
        """A LoRA as a file, or the model as a bundle, with what was not needed here."""
        model, low, source = self.config.model, self.config.lora, self.config.init
        if low is not None:
            expert: Literal["high", "low"] | None = None
            if model.boundary is not None:
                expert = "low" if self.config.expert == "low" else "high"
            lora.save(directory, model.dit, low, params["lora"], expert)
            return
        others = set(model.networks) - set(params)
        if others and source is not None:
            params = {**params, **weights.load(source, others).params}
        super().save(directory, params, tokenizer, said)


def times(
    key: Array,
    shape: tuple[int, ...],
    shift: float,
    within: tuple[float, float],
    *,
    mean: float = 0.0,
    std: float = 1.0,
    uniform: float = 0.0,
) -> Array:
    """Training times: a logit-normal moved by a shift, and a share of them spread evenly.

    Args:
        within: the times that there are, after the shift; both ends may come.
        uniform: that share.
    """
    normal_key, uniform_key, choice_key = jax.random.split(key, 3)
    center = mean + math.log(shift)  # in logits a shift is a translation
    low, high = ((_logit(t) - center) / std for t in within)
    t = jax.nn.sigmoid(center + std * jax.random.truncated_normal(normal_key, low, high, shape))
    even = jax.random.uniform(uniform_key, shape, minval=within[0], maxval=within[1])
    t = jnp.where(jax.random.bernoulli(choice_key, uniform, shape), even, t)
    return jnp.clip(t, *within)  # against rounding


def sides(model: ModelConfig, expert: str) -> tuple[float, float]:
    """The times that an expert serves: "dit" from the boundary up, "low" below it."""
    if model.boundary is None:
        return 0.0, 1.0
    below = float(np.nextafter(np.float32(model.boundary), np.float32(0)))
    return (model.boundary, 1.0) if expert == "dit" else (0.0, below)


def _logit(t: float) -> float:
    if t in (0, 1):
        return math.inf if t else -math.inf
    return math.log(t / (1 - t))


def begin(config: RunConfig) -> tuple[TuneTask, models.Params, models.Params, Tokenizer | None]:
    """The task, with what is trained and what is not: read from the model that the run tunes.

    Raises:
        ConfigError: the run and the model do not fit.
        BundleError: the model cannot be read.
    """
    if config.init is None:
        raise ConfigError(
            "A run that tunes a model says which: --init=DIRECTORY, or an id of the Hugging Face "
            "hub."
        )
    if config.frozen or config.vae is not None:
        raise ConfigError(
            "A run that tunes a model takes the VAE and all that is frozen from it: leave out vae "
            "and frozen."
        )
    found = weights.read_config(config.init)
    for network in ("dit", "vae", "text"):
        if getattr(found, network) is None:
            raise ConfigError(f"{config.init} has no {network}, so it cannot be tuned.")
    if found.image is not None and config.data.resident:
        raise ConfigError(
            f"{config.init} looks at images, which come with clips as these are needed: set "
            "data.resident to 0."
        )
    if config.lora is not None and config.optimizer.name == "muon":
        raise ConfigError("A LoRA is trained by AdamW: set optimizer.name to adamw.")
    if config.expert == "low" and found.boundary is None:
        raise ConfigError(f"{config.init} has one expert: leave out expert.")
    for network, wanted in config.model.networks.items():
        check_start(network, getattr(found, network, found.dit), wanted, config.init)
    config = dataclasses.replace(config, model=dataclasses.replace(found, name=config.model.name))
    task = TuneTask(config)
    for stage in config.stages:  # before weights are read
        for group in stage.groups:
            for bucket in group.buckets:
                task.check(bucket, 1)
    if config.lora is not None:
        lora.check(found.dit, config.lora)
    bundle = weights.open(config.init, (config.expert, "vae", "text", "image"))
    frozen: models.Params = {}
    learned: models.Params = {}
    for network, tree in bundle.params.items():
        if network in task.trained:
            learned[network] = jax.tree.map(lambda x: x.read(), tree)
        else:
            frozen |= _read({network: tree}, task.dtype)
    if config.lora is not None:
        key = jax.random.fold_in(jax.random.key(config.seed), 0)
        learned["lora"] = jax.device_get(lora.init(found.dit, config.lora, key))
    return task, learned, frozen, bundle.tokenizer


def _read(params: models.Params, dtype: Any) -> models.Params:
    """Stored parameters as sampling holds them where it computes in a type."""
    return jax.tree.map_with_path(lambda path, x: x.astype(kept_as(path, dtype)).read(), params)
