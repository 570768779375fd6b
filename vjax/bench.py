"""Speed on this machine, of a model or of the shape of a config.

    python -m vjax.bench                           # a model: matmul data train sample, or only some
    python -m vjax.bench configs/wan_1_3b.py       # a shape: matmul train sample decode

A shape has random weights and clips, so nothing else is needed. Devices have the share of a batch
that the config gives them, also where there are more or fewer, and fields can be changed, such as
`--stages.0.groups.0.buckets.0.batch=16`. Its text encoder is left at one layer: what a run uses
of it can be computed once and kept. On a GPU, XLA_PYTHON_CLIENT_MEM_FRACTION=.94 leaves more room.

Model FLOPs are counted by hand (`vjax.models.flops`) and set against what a large matrix product
reaches on the same machine in the same run. A part that fails says why, and the others go on.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import vjax
from vjax import ending, models, runtime, validation, weights, world
from vjax.config import Bucket, ConfigError, Group, MeshConfig, ModelConfig, RunConfig, Stage
from vjax.models.flops import dit_flops, encode_flops

PROMPT = "a red circle moves right on a black background"


def seconds(call: Callable[[], object], runs: int) -> float:
    """Median seconds of a call, after one that compiles."""
    jax.block_until_ready(call())
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        jax.block_until_ready(call())
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def matmul(runs: int) -> dict[str, float]:
    """What the machine reaches in one large matrix product."""
    on_cpu = jax.default_backend() == "cpu"
    size, dtype = (2048, jnp.float32) if on_cpu else (8192, jnp.bfloat16)
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return {"matmul_gflops_per_second": 2 * size**3 / seconds(lambda: product(a), runs) / 1e9}


def data(runs: int) -> dict[str, float]:
    """Drawing of the captioned world, in one thread."""
    world.clip(0, frames=33, height=128, width=128)
    began, clips = time.perf_counter(), 20 * runs
    for index in range(clips):
        world.clip(index, frames=33, height=128, width=128)
    return {"clips_per_second_33x128x128": clips / (time.perf_counter() - began)}


def train(runs: int, model: str) -> dict[str, float | str]:
    """Updates of a model's DiT and text encoder on pictures and clips, fed by the data pipeline."""
    from vjax.data.loader import Stream
    from vjax.parallel import mesh as meshes
    from vjax.parallel import rules
    from vjax.training.plan import Plan
    from vjax.training.start import starting_point
    from vjax.training.state import init_state, train_step

    begin = starting_point(_run_config(model, runs + 2))
    task, config = begin.task, begin.task.config
    mesh = meshes.make_mesh(config.mesh)
    plan = Plan(config.stages)
    frozen, given = rules.placed(begin.frozen, mesh), rules.placed(begin.given, mesh)
    with meshes.use(mesh, config.mesh):
        state = rules.placed(init_state(task, given), mesh)
    waited, took = [], []
    data = Stream(config, plan, mesh, begin.tokenizer, task.caption_dropout)
    with contextlib.closing(data), meshes.use(mesh, config.mesh):
        for step in range(plan.steps):
            began = time.perf_counter()
            update = plan[step]
            parts = data.take(update)
            waited.append(time.perf_counter() - began)
            state, metrics = train_step(task, state, frozen, parts, update.rate, update.ema)
            jax.block_until_ready((state, metrics))
            took.append(time.perf_counter() - began)
    return {
        **_training(task, plan[0].group, float(np.median(took[2:]))),
        "train_data_wait_share": float(np.sum(waited[2:]) / np.sum(took[2:])),
    }


def _run_config(model: str, steps: int) -> RunConfig:
    bundle = weights.read_config(model)
    height, width = bundle.height, bundle.width
    group = Group(
        (Bucket(1, height, width, batch=24), Bucket(bundle.frames, height, width, batch=8))
    )
    stages = (Stage((group,), steps=steps),)
    return RunConfig(name="bench", trains="dit", model=bundle, init=model, vae=model, stages=stages)


def _training(task, group: Group, seconds: float) -> dict[str, float | str]:
    """The speed of an update on all buckets of a group."""
    flops = sum(task.flops(bucket) for bucket in group.buckets)
    found = {
        "train_seconds_per_update": seconds,
        "train_clips_per_second": sum(bucket.batch for bucket in group.buckets) / seconds,
        "train_model_gflops_per_second": flops / seconds / 1e9,
        "train_dtype": str(task.dtype),
    }
    if "vae" not in task.networks:  # clips are encoded on the way, which can be a fifth of it all
        vae = task.config.model.vae
        flops += sum(
            bucket.batch * encode_flops(vae, bucket.frames, *bucket.size)
            for bucket in group.buckets
        )
        found["train_gflops_per_second_with_vae"] = flops / seconds / 1e9
    return found


def sample(runs: int, model: str, steps: int | None) -> dict[str, float]:
    """One video: in this process once warm, and whole new processes, cold and with a warm cache."""
    pipe = vjax.load(model)
    call = lambda: pipe(vjax.text(PROMPT), steps=steps)  # noqa: E731
    result = {"sample_seconds_warm": seconds(call, runs)}
    command = [sys.executable, "-m", "vjax.sample", "--prompt", PROMPT, "--model", model]
    command += [] if steps is None else ["--steps", str(steps)]
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{directory}/cache"}
        for name in ("cold", "warm_cache"):
            out = str(pathlib.Path(directory) / f"{name}.mp4")
            began = time.perf_counter()
            done = subprocess.run(
                [*command, "--out", out], env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"a new process failed: {done.stderr.strip()[-300:]}")
            result[f"process_seconds_{name}"] = time.perf_counter() - began
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {**result, "process_peak_gigabytes": children / 2**20}


# --- The shape of a config -----------------------------------------------------------------------


def shape(path: str, fields: list[str]) -> RunConfig:
    """A config as this machine can measure it: see above.

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


def train_shape(runs: int, config: RunConfig) -> dict[str, float | str]:
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
    return _training(task, group, float(np.median(took[2:])))


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


def sample_shape(runs: int, config: RunConfig, steps: int | None) -> dict[str, float]:
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
    branches = 1 if method.config.guidance == 1 else 2
    evaluations = branches * (2 if method.solver.name == "heun" else 1)
    flops = evaluations * dit_flops(model.dit, tokens, model.text.max_length)
    return {
        "sample_seconds_per_step": took,
        "sample_seconds_all_steps": took * method.steps,
        "sample_model_gflops_per_second": flops / took / 1e9,
    }


def decode_shape(runs: int, config: RunConfig) -> dict[str, float]:
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


# --- The command line ----------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vjax.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", help="a config, and parts; default: all of them")
    parser.add_argument("--model", default="default", help="without a config")
    parser.add_argument("--runs", type=int, default=9, help="the median of so many (9)")
    parser.add_argument("--steps", type=int, help="sampling steps; default: the model's, or 4")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options, fields = parser.parse_known_args(arguments)
    runs, model, steps = options.runs, options.model, options.steps
    paths = [word for word in options.what if word.endswith(".py")]
    wanted = [word for word in options.what if word not in paths]
    if len(paths) > 1:
        parser.error(f"one config, not {', '.join(paths)}.")
    if fields and not paths:
        parser.error(f"there is no {fields[0]}; fields are those of a config, which is missing.")
    if runs < 1:
        parser.error(f"--runs must be 1 or more, got {runs}.")
    parts: dict[str, Callable[[], dict]] = {"matmul": lambda: matmul(runs)}
    if paths:
        parts |= {
            "train": lambda: train_shape(runs, shape(paths[0], fields)),
            "sample": lambda: sample_shape(runs, shape(paths[0], fields), steps),
            "decode": lambda: decode_shape(runs, shape(paths[0], fields)),
        }
    else:
        parts |= {
            "data": lambda: data(runs),
            "train": lambda: train(runs, model),
            "sample": lambda: sample(runs, model, steps),
        }
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}: choose from {', '.join(parts)}.")
    results: dict = {"jax": jax.__version__}
    status = 0
    try:
        runtime.set_up()
        runtime.check_devices()
        results["device"] = jax.devices()[0].device_kind
        for name in wanted or parts:
            try:
                results |= parts[name]()
            except Exception as error:  # whatever it is, the other parts have their figures
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                print(f"vjax.bench: {name} failed: {kind}{error}", file=sys.stderr)
                status = 1
    except ConfigError as error:
        print(f"vjax.bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:  # finished parts have their figures, too
        print("vjax.bench: interrupted.", file=sys.stderr)
        status = ending.status(interrupt)
    peak = results.get("matmul_gflops_per_second")
    for name, devices in (("train", jax.device_count()), ("sample", 1)):
        reached = results.get(f"{name}_model_gflops_per_second")
        if peak and reached:
            results[f"{name}_share_of_matmul"] = reached / (peak * devices)
    if options.json:
        print(json.dumps(results))
    else:
        for key, value in results.items():
            print(f"{key:32} {value if isinstance(value, str) else format(value, '.4g')}")
    return status


if __name__ == "__main__":
    ending.heed_signals()
    sys.exit(main())
