"""The programs of training and of sampling, with shapes in place of arrays.

They are the very programs that a run uses, laid out over a mesh of devices that may be known to the
compiler alone.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from vjax import models, planning, solvers, stages, weights
from vjax.config import Bucket, ConfigError, ModelConfig, RunConfig
from vjax.models import flops
from vjax.parallel import mesh as meshes
from vjax.parallel import rules
from vjax.parallel.ahead import Job, held, placed, sent, whole
from vjax.sampler import Condition
from vjax.timeline import Timeline
from vjax.training import state as states
from vjax.training.start import TASKS
from vjax.training.task import Task


def training(config: RunConfig, mesh: jax.sharding.Mesh) -> list[Job]:
    """The programs of an update: the gradient of each bucket of a group, then the optimizer.

    The group is the one of the last stage whose largest bucket costs the most.

    Raises:
        ConfigError: the devices cannot share the work so, or there is no VAE.
    """
    task = task_of(config)
    config = task.config
    group = costliest(task)
    for bucket in group:
        task.check(bucket, meshes.shares(mesh))
    meshes.check(config.mesh, mesh, config.model)
    state = placed(jax.eval_shape(functools.partial(states.init_state, task)), mesh)
    frozen = placed(
        {
            name: models.abstract(getattr(config.model, name))
            for name in ("vae", *config.frozen)
            if name not in task.trained and getattr(config.model, name) is not None
        },
        mesh,
    )
    step = jax.ShapeDtypeStruct((), jnp.int32)
    resident = {
        "parameters": held(state["params"]),
        "average": held(state["ema"]),
        "optimizer": held(state["optimizer"]),
        "frozen networks": held(frozen),
        "gradients": held(state["params"]),
    }
    itemsize = task.dtype.itemsize
    unused = "^$" if "vae" in task.trained else "vae/(decoder|post_quant_conv)/"
    gathers = sum(
        sent(params, name, itemsize, 2 if name in task.trained else 1, without=unused)
        for name, params in {**state["params"], **frozen}.items()
    )
    jobs = []
    for bucket in group:
        batch = _batch(task, bucket, mesh)
        trace = functools.partial(
            states.accumulate.trace,
            task,
            bucket,
            state["params"],
            frozen,
            batch,
            state["params"],  # gradients are of their shapes
            step,
            np.int32(0),
            np.float32(0),
        )
        name = f"gradient of {bucket.batch} x {bucket.frames}x{bucket.height}x{bucket.width}"
        expected, attention = _expected(task, bucket, mesh.size)
        jobs.append(
            Job(
                name,
                trace,
                {**resident, "batch": held(batch)},
                model_flops=task.flops(bucket) / mesh.size,
                expected_flops=expected,
                attention_flops=attention,
                gathers=gathers,
            )
        )
    update = functools.partial(
        states._apply.trace, task, state, state["params"], np.float32(0), np.float32(0)
    )
    return [*jobs, Job("optimizer", update, resident)]


def sampling(
    model: ModelConfig,
    mesh: jax.sharding.Mesh,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
) -> list[Job]:
    """The programs that make one video: its texts, a window's steps, and a latent's frames.

    The text encoder runs before the others and need not lie beside them.

    Raises:
        ConfigError: the devices cannot share the work so, or a network is missing.
        RequestError: the model does not make such a video.
    """
    sampler, solver = model.sampler, solvers.SOLVERS[model.sampler.solver]
    branches = 1 if sampler.guidance == 1 else 2
    meshes.check_samples(mesh, branches)
    shape, windows, latents = window(model, frames, size)
    dtype, vae = jnp.bfloat16, model.vae
    array = functools.partial(whole, mesh)

    def everywhere(tree):
        return jax.tree.map(lambda x: array(x.shape, x.dtype), tree)

    def network(name: str, kind):
        params = {name: models.abstract(getattr(model, name))}
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, kind), params)
        return placed(params, mesh)[name]

    dit, text, decoder = network("dit", dtype), network("text", dtype), network("vae", jnp.float32)
    words = model.text.max_length
    condition = Condition(
        source=array((1, *shape)),
        strength=array((1, shape[0], 1, 1, 1)),
        anchors=array((1, 0, *shape[1:])),
        positions=array((1, shape[0])),
        anchor_positions=array((1, 0)),
        text=array((1, words, model.text.width)),
        negative=array((1, words, model.text.width)),
    )
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    start = functools.partial(stages._start, solver=solver)
    state = everywhere(jax.eval_shape(start, condition, array((1, *shape)), array(()), keys))
    steps = functools.partial(
        stages._advance.trace,
        model.dit,
        dit,
        condition,
        state,
        array((sampler.steps + 1,)),
        0,
        sampler.steps,
        solver,
        np.float32(sampler.guidance),
        branches == 2,
        jnp.dtype(dtype),
    )
    first = functools.partial(stages._decode, vae, dtype=jnp.uint8)
    latent = array((1, 1, *shape[1:]))
    _, past = jax.eval_shape(first, decoder, latent, None)
    with jax.sharding.set_mesh(mesh):  # what a latent leaves lies where it was computed
        past = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape,
                x.dtype,
                sharding=NamedSharding(mesh, rules.spec(rules.sides(x.shape), x.shape)),
            ),
            past,
        )
    decode = functools.partial(stages._decode.trace, vae, decoder, latent, past, jnp.uint8)
    embed = functools.partial(
        stages._embed.trace,
        model.text,
        text,
        array((2, words), jnp.int32),
        array((2, words), jnp.bool_),
    )
    resident = {"DiT": held(dit), "VAE": held(decoder)}
    runs = sampler.steps * branches / mesh.size
    forward = flops.dit_flops(model.dit, tokens(model, shape), words)
    attention = flops.attention_flops(model.dit, tokens(model, shape), words)
    grid = "x".join(map(str, shape[:3]))
    alone = jax.make_jaxpr(functools.partial(first, past=past))(decoder, latent)
    decoding = flops.traced(alone) / mesh.size
    looking = flops.traced(alone, kernels_only=True) / mesh.size
    texts = 2 * flops.text_flops(model.text, words) / mesh.size
    return [
        Job(
            "texts",
            embed,
            {"text encoder": held(text)},
            model_flops=texts,
            expected_flops=texts,
            gathers=sent(text, "text", 2, 1),
        ),
        Job(
            f"{sampler.steps} steps of {grid} latents",
            steps,
            {**resident, "latents": held(state) + held(condition)},
            model_flops=runs * forward,
            expected_flops=runs * (forward - attention),
            attention_flops=runs * attention,
            gathers=sampler.steps * sent(dit, "dit", 2, 1),
            times=windows,
        ),
        Job(
            "a latent's frames",
            decode,
            {**resident, "what the VAE keeps of earlier frames": held(past)},
            model_flops=decoding,
            expected_flops=decoding - looking,
            attention_flops=looking,
            gathers=sent(decoder, "vae", 4, 1, without="vae/(encoder|quant_conv)/"),
            times=latents,
        ),
    ]


def window(
    model: ModelConfig, frames: int | None, size: tuple[int, int] | None
) -> tuple[tuple[int, int, int, int], int, int]:
    """The latents [T H W C] that a model makes at once of a video, how often, and of how many.

    Raises:
        ConfigError: a network is missing.
        RequestError: the model does not make such a video.
    """
    for name in weights.NETWORKS:
        if getattr(model, name) is None:
            raise ConfigError(f"{model.name} has no {name}, so it cannot make videos.")
    plan = planning.plan(Timeline("a video", frames=frames, size=size), model)
    (segment,) = plan.segments  # nothing is known of it
    first = segment.windows[0]
    width, height = (side // model.vae.spatial_ratio for side in plan.size)
    shape = (first.stop - first.start, height, width, model.dit.in_channels)
    return shape, len(segment.windows), segment.latents


def parameters(run: RunConfig) -> models.Params:
    """The shapes of the networks of a run."""
    found = {name: getattr(run.model, name) for name in weights.NETWORKS}
    return {name: models.abstract(config) for name, config in found.items() if config is not None}


def tokens(model: ModelConfig, latents: tuple[int, ...]) -> int:
    """How many the DiT sees of latents [T H W C]."""
    return math.prod(latents[:3]) // math.prod(model.dit.patch)


def task_of(config: RunConfig) -> Task:
    """The task of a run, of which only the configs of other bundles are read."""
    model = config.model
    if config.vae is not None:
        model = dataclasses.replace(model, vae=weights.read_config(config.vae).vae)
    if model.vae is None:
        raise ConfigError("The run needs a VAE to be planned with: --vae=BUNDLE, or model.vae.")
    # What accelerators compute in, wherever this runs.
    return TASKS[config.trains](
        dataclasses.replace(config, model=model, dtype=config.dtype or "bfloat16")
    )


def costliest(task: Task) -> tuple[Bucket, ...]:
    """The buckets of the group of the last stage whose largest bucket costs the most."""

    def cost(bucket: Bucket) -> tuple[int, int]:
        return task.flops(bucket), bucket.frames * math.prod(bucket.size) * bucket.batch

    groups = task.config.stages[-1].groups
    return max((group.buckets for group in groups), key=lambda group: max(map(cost, group)))


def batches(run: RunConfig) -> dict[str, int]:
    """The batches of the last stage, by the names of their fields."""
    last = len(run.stages) - 1
    return {
        f"stages.{last}.groups.{i}.buckets.{j}.batch": bucket.batch
        for i, group in enumerate(run.stages[last].groups)
        for j, bucket in enumerate(group.buckets)
    }


def _shapes(task: Task, bucket: Bucket) -> dict[str, jax.ShapeDtypeStruct]:
    """Of a batch."""
    ratio = task.config.model.vae.temporal_ratio
    video = (bucket.batch, bucket.frames + ratio * bucket.lead, *bucket.size, 3)
    found = {"video": jax.ShapeDtypeStruct(video, np.uint8)}
    if task.reads_captions:
        words = (bucket.batch, task.config.model.text.max_length)
        found["ids"] = jax.ShapeDtypeStruct(words, np.int32)
        found["mask"] = jax.ShapeDtypeStruct(words, np.bool_)
    return found


def _batch(task: Task, bucket: Bucket, mesh: jax.sharding.Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    sharding = meshes.split_batch(mesh)
    return {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        for name, x in _shapes(task, bucket).items()
    }


def _expected(task: Task, bucket: Bucket, devices: int) -> tuple[float | None, float]:
    """FLOPs that a gradient needs on one device, with what it encodes and recomputes.

    Those without attention, where they are known, and those of attention.
    """
    model = task.config.model
    if task.config.trains != "dit":
        return None, 0.0
    single = dataclasses.replace(bucket, batch=1)
    params = {name: models.abstract(getattr(model, name)) for name in weights.NETWORKS}
    key = jax.eval_shape(lambda: jax.random.key(0))
    known = jax.make_jaxpr(functools.partial(task.known, single))(
        params, _shapes(task, single), key
    )
    encoded, looking = flops.traced(known), flops.traced(known, kernels_only=True)
    length, count = model.text.max_length, task.tokens(bucket)
    attention = flops.attention_flops(model.dit, count, length)
    layers = flops.dit_flops(model.dit, count, length) - attention
    backward = 2 * flops.text_flops(model.text, length) if "text" in task.trained else 0
    # A backward pass is twice the forward one; of attention without its scores, two and a half.
    once_more = int(model.dit.remat)
    products = (3 + once_more) * layers + encoded - looking + backward
    each = bucket.batch / devices
    return each * products, each * ((3.5 + once_more) * attention + looking)
