"""The programs of training and sampling, compiled for TPUs that are not there.

They are the very programs that a run uses, with shapes in place of arrays, laid out over a mesh of
devices that only the compiler knows.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vjax import models, solvers, stages, weights
from vjax.config import Bucket, ConfigError, ModelConfig, RunConfig
from vjax.models import flops
from vjax.parallel import hlo, rules
from vjax.parallel import mesh as meshes
from vjax.parallel.slices import Chip
from vjax.sampler import Condition
from vjax.training import state as states
from vjax.training.start import TASKS
from vjax.training.task import Task


@dataclasses.dataclass(frozen=True)
class Part:
    """One compiled program, in figures for one device.

    Args:
        resident: bytes that lie there whatever runs, by what they are.
        temporaries: bytes that the program needs beside them.
        model_flops: counted by hand, forward and backward, without recomputation.
        attention_flops: what the kernels of attention compute, which no compiler sees into.
        times: how often it runs for one update, or one video.
        problem: why it does not compile, such as too little memory; then there are no figures.
    """

    name: str
    resident: Mapping[str, float]
    temporaries: float = 0.0
    program: hlo.Program | None = None
    model_flops: float = 0.0
    attention_flops: float = 0.0
    times: int = 1
    problem: str | None = None
    compile_seconds: float = 0.0

    @property
    def memory(self) -> float:
        return sum(self.resident.values()) + self.temporaries

    @property
    def flops(self) -> float:
        """What is computed, as compiled."""
        if self.program is None:
            return 0.0
        tiled = "tpu_custom_call" in self.program.kernels
        return self.program.flops + (self.attention_flops if tiled else 0)

    def seconds(self, chip: Chip) -> dict[str, float]:
        """What the program takes at least, by what could bind it."""
        if self.program is None:
            return {}
        return {
            "arithmetic": self.flops / chip.flops,
            "main memory": self.program.memory / chip.bandwidth,
            "interconnect": sum(self.program.moved.values()) / chip.ring,
            "network between slices": self.program.between / chip.between,
        }


def training(
    config: RunConfig, mesh: jax.sharding.Mesh, slice_size: int, say: Callable[[str], Any]
) -> list[Part]:
    """The programs of an update: the gradient of each bucket of a group, then the optimizer.

    The group is the one of the last stage whose largest bucket costs the most.
    """
    task = _task(config)
    config = task.config
    group = max(config.stages[-1].groups, key=lambda group: max(map(task.flops, group.buckets)))
    for bucket in group.buckets:
        task.check(bucket, meshes.shares(mesh))
    meshes.check(config.mesh, mesh, config.model)
    place = functools.partial(_placed, mesh=mesh)
    state = place(jax.eval_shape(functools.partial(states.init_state, task)))
    frozen = place(
        {
            name: models.abstract(getattr(config.model, name))
            for name in ("vae", *config.frozen)
            if name not in task.trained and getattr(config.model, name) is not None
        }
    )
    step = jax.ShapeDtypeStruct((), jnp.int32)
    resident = {
        "parameters": _bytes(state["params"]),
        "average": _bytes(state["ema"]),
        "optimizer": _bytes(state["optimizer"]),
        "frozen networks": _bytes(frozen),
        "gradients": _bytes(state["params"]),
    }
    compiled = functools.partial(_compiled, slice_size=slice_size, mesh=mesh, say=say)
    parts = []
    for bucket in group.buckets:
        batch = _batch(task, bucket, mesh)
        parts.append(
            compiled(
                f"gradient of {bucket.batch} x {bucket.frames}x{bucket.height}x{bucket.width}",
                functools.partial(
                    states.accumulate.lower,
                    task,
                    bucket,
                    state["params"],
                    frozen,
                    batch,
                    state["params"],  # gradients are of their shapes
                    step,
                    np.int32(0),
                    np.float32(0),
                ),
                resident={**resident, "batch": _bytes(batch)},
                model_flops=task.flops(bucket) / mesh.size,
                attention_flops=_attention(task, bucket) / mesh.size,
            )
        )
    update = functools.partial(
        states._apply.lower, task, state, state["params"], np.float32(0), np.float32(0)
    )
    return [*parts, compiled("optimizer", update, resident=resident)]


def sampling(
    model: ModelConfig,
    mesh: jax.sharding.Mesh,
    slice_size: int,
    say: Callable[[str], Any],
    frames: int,
    size: tuple[int, int],
) -> list[Part]:
    """The programs that make one video: its texts, the sampler's steps, and a latent's frames.

    The text encoder runs before the others and need not lie beside them.
    """
    dtype, vae = jnp.bfloat16, model.vae
    whole = NamedSharding(mesh, PartitionSpec())

    def array(*shape: int, kind=jnp.float32):
        return jax.ShapeDtypeStruct(shape, kind, sharding=whole)

    def everywhere(tree):
        return jax.tree.map(lambda x: array(*x.shape, kind=x.dtype), tree)

    def network(name: str, kind):
        params = {name: models.abstract(getattr(model, name))}
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, kind), params)
        return _placed(params, mesh)[name]

    dit, text = network("dit", dtype), network("text", dtype)
    decoder = network("vae", jnp.float32)
    width, height = (side // vae.spatial_ratio for side in size)
    shape = (1 + (frames - 1) // vae.temporal_ratio, height, width, model.dit.in_channels)
    words = (1, model.text.max_length)
    condition = Condition(
        source=array(1, *shape),
        strength=array(1, shape[0], 1, 1, 1),
        anchors=array(1, 0, *shape[1:]),
        positions=array(1, shape[0]),
        anchor_positions=array(1, 0),
        text=array(*words, model.text.width),
        negative=array(*words, model.text.width),
    )
    sampler, solver = model.sampler, solvers.SOLVERS[model.sampler.solver]
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    state = jax.eval_shape(
        functools.partial(stages._start, solver=solver), condition, array(1, *shape), array(), keys
    )
    state = everywhere(state)
    tokens = math.prod(shape[:3]) // (model.dit.patch[1] * model.dit.patch[2])
    branches = 1 if sampler.guidance == 1 else 2
    compiled = functools.partial(_compiled, slice_size=slice_size, mesh=mesh, say=say)
    forward, attention = (
        sampler.steps * branches * count(model.dit, tokens, words[1]) / mesh.size
        for count in (flops.dit_flops, flops.attention_flops)
    )
    steps = functools.partial(
        stages._advance.lower,
        model.dit,
        dit,
        condition,
        state,
        array(sampler.steps + 1),
        0,
        sampler.steps,
        solver,
        np.float32(sampler.guidance),
        branches == 2,
        jnp.dtype(dtype),
    )
    first = functools.partial(stages._decode, vae, dtype=jnp.uint8)
    latent = array(1, 1, *shape[1:])
    _, past = jax.eval_shape(first, decoder, latent, None)
    past = everywhere(past)
    decode = functools.partial(stages._decode.lower, vae, decoder, latent, past, jnp.uint8)
    embed = functools.partial(
        stages._embed.lower,
        model.text,
        text,
        array(*words, kind=jnp.int32),
        array(*words, kind=jnp.bool_),
    )
    resident = {"DiT": _bytes(dit), "VAE": _bytes(decoder)}
    return [
        compiled("texts", embed, resident={"text encoder": _bytes(text)}, times=branches),
        compiled(
            f"{sampler.steps} steps, {frames}x{size[1]}x{size[0]}",
            steps,
            resident=resident,
            model_flops=forward,
            attention_flops=attention,
        ),
        compiled("a latent's frames", decode, resident=resident, times=shape[0]),
    ]


def _task(config: RunConfig) -> Task:
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


def _batch(task: Task, bucket: Bucket, mesh) -> dict[str, jax.ShapeDtypeStruct]:
    ratio, side = task.config.model.vae.temporal_ratio, bucket.crop
    height, width = (side, side) if side else (bucket.height, bucket.width)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "video": ((bucket.batch, bucket.frames + ratio * bucket.lead, height, width, 3), np.uint8)
    }
    if task.reads_captions:
        length = task.config.model.text.max_length
        shapes |= {
            "ids": ((bucket.batch, length), np.int32),
            "mask": ((bucket.batch, length), np.bool_),
        }
    sharding = meshes.split_batch(mesh)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }


def _attention(task: Task, bucket: Bucket) -> float:
    """FLOPs of attention in a gradient: backward it is two and a half times as many."""
    model = task.config.model
    if task.config.trains != "dit":
        return 0.0
    times = 3.5 + model.dit.remat  # and forward once more, where nothing was kept
    tokens = task.tokens(bucket)
    return bucket.batch * times * flops.attention_flops(model.dit, tokens, model.text.max_length)


def _placed(tree, mesh):
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        rules.shardings(tree, mesh),
    )


def _bytes(tree) -> float:
    """What lies on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _compiled(
    name: str,
    lower: Callable[[], jax.stages.Lowered],
    *,
    resident: Mapping[str, float],
    mesh: jax.sharding.Mesh,
    slice_size: int,
    say: Callable[[str], Any],
    model_flops: float = 0.0,
    attention_flops: float = 0.0,
    times: int = 1,
) -> Part:
    """Compiles one program. What is resident but no argument of it lies beside it."""
    began = time.monotonic()
    part = Part(
        name, resident, model_flops=model_flops, attention_flops=attention_flops, times=times
    )
    try:
        compiled = lower().compile()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "exceed" not in str(error).lower():
            raise
        part = dataclasses.replace(part, problem=_first_line(str(error)))
    else:
        found = compiled.memory_analysis()
        part = dataclasses.replace(
            part,
            temporaries=found.temp_size_in_bytes
            + found.generated_code_size_in_bytes
            + max(found.output_size_in_bytes - found.alias_size_in_bytes, 0),
            program=hlo.read(compiled, slice_size if slice_size < mesh.size else None),
        )
    part = dataclasses.replace(part, compile_seconds=time.monotonic() - began)
    say(f"{name}: compiled in {part.compile_seconds:.0f} s")
    return part


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:300]
