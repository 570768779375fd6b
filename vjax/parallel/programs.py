"""The programs of training and of sampling, with shapes in place of arrays.

They are the very programs that a run uses, laid out over a mesh of devices that may be known to the
compiler alone.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from vjax import coding, models, precision, stages, weights
from vjax import memory as memories
from vjax.config import Bucket, ConfigError, ModelConfig, RunConfig, VAEConfig
from vjax.models import flops
from vjax.parallel import mesh as meshes
from vjax.parallel import rules
from vjax.parallel.ahead import Job, sent, whole
from vjax.parallel.rehearsal import Video
from vjax.parallel.rules import held, laid_out
from vjax.sampler import Condition
from vjax.training import state as states
from vjax.training.start import TASKS
from vjax.training.task import Task

_SAID = {
    "text": "text encoder",
    "image": "image encoder",
    "dit": "DiT",
    "low": "second expert",
    "vae": "VAE",
}


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
    state = laid_out(jax.eval_shape(functools.partial(states.init_state, task)), mesh)
    frozen = laid_out(
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
    model: ModelConfig, mesh: jax.sharding.Mesh, video: Video, memory: float = math.inf
) -> list[Job]:
    """The programs that make a video: its texts, what is given, windows' steps, a latent's frames.

    Of two experts, which are alike, the first stands for both.

    Args:
        memory: bytes of a device, which decide which networks take turns there, and in how many
            tiles frames are encoded and decoded.

    Raises:
        ConfigError: the devices cannot share the work so.
        RequestError: there is no such dtype.
    """
    meshes.check_samples(mesh, 2 if video.guided else 1)
    array = functools.partial(whole, mesh)
    params = laid_out(precision.abstract(model, video.dtype, video.int8), mesh)
    sizes = {name: held(tree) for name, tree in params.items()}

    def lying(texts: bool) -> dict[str, float]:
        found = memories.resident(sizes, memory, texts)
        return {_SAID[name]: size for name, size in found.items()}

    resident, words = lying(texts=False), model.text.max_length
    embed = functools.partial(
        stages._embed.trace,
        model.text,
        params["text"],
        array((2, words), jnp.int32),
        array((2, words), jnp.bool_),
    )
    needed = 2 * flops.text_flops(model.text, words) / mesh.size
    texts = Job(
        "two texts",
        embed,
        lying(texts=True),
        model_flops=needed,
        expected_flops=needed,
        gathers=sent(params["text"], "text", jnp.dtype(video.dtype).itemsize, 1),
        times=video.texts // 2,
    )
    looked = [
        _looking(model, mesh, params["image"], count, times, resident)
        for count, times in video.looked.items()
    ]
    steps = [
        _steps(model, mesh, params["dit"], video, condition, times, resident)
        for condition, times in video.windows
    ]
    ratio, side = model.vae.temporal_ratio, model.vae.spatial_ratio
    room = memory - sum(resident.values())
    code = functools.partial(_coding, mesh, model.vae, params["vae"], resident)
    coded: list[Job] = []
    encoder, decoder = "vae/(encoder|quant_conv)/", "vae/(decoder|post_quant_conv)/"
    for (height, width, kind), times in video.encoded.items():
        tiles = coding.tiles_of(coding.encoding(model.vae), height, width, room, mesh.size)
        first, other = (
            array((1, count, side * tiles.height, side * tiles.width, 3), kind)
            for count in (1, ratio)
        )
        name, times = f"a latent of what is given{tiles.said()}", times * len(tiles)
        coded.append(code(name, times, stages._encode, first, other, decoder))
    for (height, width), times in video.decoded.items():
        tiles = coding.tiles_of(coding.decoding(model.vae), height, width, room, mesh.size)
        latent = array((1, 1, tiles.height, tiles.width, model.vae.z_dim))
        name, times = f"a latent's frames{tiles.said()}", times * len(tiles)
        coded.append(code(name, times, stages._decode, latent, latent, encoder, jnp.uint8))
    return [texts, *looked, *steps, *coded]


def _looking(
    model: ModelConfig,
    mesh: jax.sharding.Mesh,
    params,
    count: int,
    times: int,
    resident: Mapping[str, float],
) -> Job:
    """The image encoder's look at so many images at once."""
    images = whole(mesh, (count, model.image.side, model.image.side, 3), jnp.uint8)
    look = functools.partial(stages._look, model.image)
    needed = flops.traced(jax.make_jaxpr(look)(params, images)) / mesh.size
    return Job(
        "an image that is given" if count == 1 else f"{count} images that are given",
        functools.partial(stages._look.trace, model.image, params, images),
        resident,
        model_flops=needed,
        expected_flops=needed,
        gathers=sent(params, "image", 4, 1),
        times=times,
    )


def _steps(
    model: ModelConfig,
    mesh: jax.sharding.Mesh,
    dit,
    video: Video,
    shapes: Condition,
    times: int,
    resident: Mapping[str, float],
) -> Job:
    """The steps of a kind of window."""
    array, method = functools.partial(whole, mesh), video.method
    dtype, told = jnp.dtype(video.dtype), method.told
    condition = jax.tree.map(lambda x: array(x.shape, x.dtype), shapes)
    source, anchors = condition.source.shape, condition.anchors.shape[1]
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    start = functools.partial(stages._start, solver=method.solver)
    state = jax.eval_shape(start, condition, array(source), array(()), keys)
    state = jax.tree.map(lambda x: array(x.shape, x.dtype), state)
    trace = functools.partial(
        stages._advance.trace,
        model.dit,
        dit,
        condition,
        state,
        array((method.steps + 1,)),
        0,
        method.steps,
        method.solver,
        np.float32(method.config.guidance),
        video.guided,
        dtype,
        method.tiles,
        None if told is None else array(told.shape),
    )
    runs = method.steps * (2 if video.guided else 1) / mesh.size
    forward = attention = 0.0
    for count, length, words in looks(model, condition, video):
        forward += runs * count * flops.dit_flops(model.dit, length, words)
        attention += runs * count * flops.attention_flops(model.dit, length, words)
    name = f"{method.steps} steps of {'x'.join(map(str, source[1:4]))} latents"
    name += f" and {anchors} anchors" if anchors else ""
    name += f" in {len(method.tiles)} tiles" if method.tiles else ""
    return Job(
        name,
        trace,
        {**resident, "latents": held(state) + held(condition)},
        model_flops=forward,
        expected_flops=forward - attention,
        attention_flops=attention,
        gathers=method.steps * len(method.tiles or ".") * sent(dit, "dit", dtype.itemsize, 1),
        times=times,
    )


def _coding(
    mesh: jax.sharding.Mesh,
    vae: VAEConfig,
    params,
    resident: Mapping[str, float],
    name: str,
    times: int,
    stage,
    first,
    other,
    unused: str,
    *kind: Any,
) -> Job:
    """The VAE's program of a latent that is not the `first`, which most are."""
    plain = stage.__wrapped__  # a program with options of its own can be no part of another
    _, past = jax.eval_shape(lambda p, x: plain(vae, p, x, None, *kind), params, first)
    with jax.sharding.set_mesh(mesh):  # what a latent leaves lies where it was computed
        past = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape,
                x.dtype,
                sharding=NamedSharding(mesh, rules.spec(rules.sides(x.shape), x.shape)),
            ),
            past,
        )
    alone = jax.make_jaxpr(lambda p, x, past: plain(vae, p, x, past, *kind))(params, other, past)
    needed = flops.traced(alone) / mesh.size
    looking = flops.traced(alone, kernels_only=True) / mesh.size
    return Job(
        name,
        functools.partial(stage.trace, vae, params, other, past, *kind),
        {**resident, "what the VAE keeps of earlier frames": held(past)},
        model_flops=needed,
        expected_flops=needed - looking,
        attention_flops=looking,
        gathers=sent(params, "vae", 4, 1, without=unused),
        times=times,
    )


def looks(model: ModelConfig, condition: Condition, video: Video) -> Iterator[tuple[int, int, int]]:
    """How often the DiT looks at a window in a step of one branch: times, tokens, words."""
    _, frames, height, width, _ = condition.source.shape
    frames += condition.anchors.shape[1] + condition.ring
    tiles = video.method.tiles
    if tiles is not None:
        height, width = tiles.height, tiles.width
    count, words = 1 if tiles is None else len(tiles), condition.text.shape[1]
    yield count, tokens(model, (frames, height, width)), words
    if (origin := condition.origin) is not None:
        seen = frames - origin.references
        yield count, tokens(model, (seen, height, width)), origin.text.shape[1]


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
