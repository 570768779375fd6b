"""Speed of the shape of a config: random weights and clips, so that nothing else is needed."""

import dataclasses
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from vjax import models, validation, weights
from vjax.benchmarks.machine import seconds
from vjax.benchmarks.updates import speed_of_update
from vjax.config import Bucket, ConfigError, MeshConfig, ModelConfig, RunConfig
from vjax.models.flops import dit_flops


def read(path: str, fields: list[str]) -> RunConfig:
    """A config as this machine can measure it, see `vjax.bench`.

    Raises:
        ConfigError: it cannot be read, or has no VAE.
    """
    from vjax.parallel import mesh as meshes

    config = validation.override(validation.load_config(path), fields)
    model = config.model
    if config.vae is not None:
        model = dataclasses.replace(model, vae=weights.read_config(config.vae).vae)
    if model.vae is None:
        raise ConfigError("The config has no VAE: give the bundle of one, --vae=BUNDLE.")
    if model.text is not None:
        text = dataclasses.replace(model.text, depth=1, vocab=min(model.text.vocab, 1024))
        model = dataclasses.replace(model, text=text)
    asked, config = config.mesh, dataclasses.replace(config, model=model)
    try:
        mesh = meshes.make_mesh(asked)
    except ConfigError:
        config = dataclasses.replace(config, mesh=MeshConfig(fsdp=jax.device_count()))
        mesh = meshes.make_mesh(config.mesh)
    before, now = (asked.data or 1) * asked.fsdp, meshes.shares(mesh)

    def scaled(bucket: Bucket) -> Bucket:
        return dataclasses.replace(bucket, batch=max(1, bucket.batch // before) * now)

    last = config.stages[-1]
    group = max(last.groups, key=lambda group: group.share)
    group = dataclasses.replace(group, buckets=tuple(map(scaled, group.buckets)))
    return dataclasses.replace(config, stages=(dataclasses.replace(last, groups=(group,)),))


def train(runs: int, config: RunConfig) -> dict[str, float | str]:
    """Updates of the most frequent group of a config's last stage."""
    from vjax.parallel import mesh as meshes
    from vjax.parallel import rules
    from vjax.training.start import TASKS
    from vjax.training.state import init_state, train_step

    task = TASKS[config.trains](config)
    mesh = meshes.make_mesh(config.mesh)
    (group,) = config.stages[-1].groups
    for bucket in group.buckets:
        task.check(bucket, meshes.shares(mesh))
    meshes.check(config.mesh, mesh, config.model)
    with meshes.use(mesh, config.mesh):
        state = rules.placed(init_state(task), mesh)
    used = [name for name in ("vae", *task.networks) if name not in task.trained]
    frozen = rules.placed(_random(config.model, used, "float32"), mesh)
    parts = [
        (bucket, meshes.place_batch(mesh, _batch(task, bucket, mesh))) for bucket in group.buckets
    ]
    took = []
    with meshes.use(mesh, config.mesh):
        for _ in range(runs + 2):
            began = time.perf_counter()
            state, metrics = train_step(task, state, frozen, parts, 1e-5, 0.99)
            jax.block_until_ready((state, metrics))
            took.append(time.perf_counter() - began)
    return speed_of_update(task, group, float(np.median(took[2:])))


def _random(model: ModelConfig, names, dtype: str) -> models.Params:
    """Networks as they are before training."""

    def make(name: str):
        params = jax.jit(lambda key: models.init(getattr(model, name), key))(jax.random.key(0))
        return jax.tree.map(lambda x: np.asarray(x, dtype), params)

    return {name: make(name) for name in names}


def _batch(task, bucket: Bucket, mesh) -> dict[str, np.ndarray]:
    """Noise in place of this process's clips, and full captions."""
    from vjax.parallel import mesh as meshes

    rng, model = np.random.default_rng(0), task.config.model
    count = len(meshes.own_clips(mesh, bucket.batch))
    frames = bucket.frames + model.vae.temporal_ratio * bucket.lead
    batch = {"video": rng.integers(0, 256, (count, frames, *bucket.size, 3), np.uint8)}
    if task.reads_captions:
        words = (count, model.text.max_length)
        batch["ids"] = rng.integers(0, model.text.vocab, words, np.int32)
        batch["mask"] = np.ones(words, np.bool_)
    return batch


def sample(runs: int, config: RunConfig, steps: int | None) -> dict[str, float]:
    """Steps of the sampler for one video in the model's own size; the first are compiled apart."""
    stages, condition, noise, method = _sampler(config)
    count = min(method.steps, steps or 4)

    def run():
        state = stages.start(condition, noise, keys, method)
        return stages.advance(condition, state, 0, count, method)

    keys = jax.random.split(jax.random.key(0), 1)
    took = seconds(run, runs) / count
    model = config.model
    tokens = noise.shape[1] * math.prod(
        side // patch for side, patch in zip(noise.shape[2:4], model.dit.patch[1:], strict=True)
    )
    branches = 1 + method.config.guided
    evaluations = branches * (2 if method.solver.name == "heun" else 1)
    flops = evaluations * dit_flops(model.dit, tokens, model.text.max_length)
    return {
        "sample_seconds_per_step": took,
        "sample_seconds_all_steps": took * method.steps,
        "sample_model_gflops_per_second": flops / took / 1e9,
    }


def decode(runs: int, config: RunConfig) -> dict[str, float]:
    """The frames of one video, latent by latent."""
    stages, _, noise, _ = _sampler(config)
    latents = np.asarray(noise)

    def run():
        past = None
        for i in range(latents.shape[1]):
            frames, past = stages.decode_next(latents[:, i : i + 1], past)
        return frames

    took = seconds(run, runs)
    return {"decode_seconds": took, "decode_frames_per_second": config.model.frames / took}


def _sampler(config: RunConfig):
    """A model's stages with random weights, and what they make one video of."""
    from vjax import flow, solvers
    from vjax.pipeline import Method
    from vjax.sampler import Condition
    from vjax.stages import Stages

    model, vae = config.model, config.model.vae
    if model.dit is None:
        raise ConfigError("The config has no DiT to sample with.")
    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    params = _random(model, ("dit", "text"), dtype) | _random(model, ("vae",), "float32")
    stages = Stages(weights.Bundle(model, params, None))
    frames = 1 + (model.frames - 1) // vae.temporal_ratio
    size = (model.height // vae.spatial_ratio, model.width // vae.spatial_ratio)
    key = jax.random.key(0)
    text = jax.random.normal(key, (1, model.text.max_length, model.text.width))
    noise = jax.random.normal(key, (1, frames, *size, vae.z_dim))
    condition = Condition(
        source=jnp.zeros_like(noise),
        strength=jnp.zeros((1, frames, 1, 1, 1)),
        anchors=jnp.zeros((1, 0, *noise.shape[2:])),
        positions=jnp.arange(frames, dtype=jnp.float32)[None],
        anchor_positions=jnp.zeros((1, 0)),
        text=text,
        negative=text,
    )
    times = flow.schedule(model.sampler.steps, model.sampler.shift)
    return (
        stages,
        condition,
        noise,
        Method(model.sampler, solvers.SOLVERS[model.sampler.solver], times),
    )
