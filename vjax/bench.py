"""Speed on this machine: `python -m vjax.bench`, or only some of: matmul data train sample.

Model FLOPs are counted by hand (`vjax.models.flops`) and set against what a large matrix product
reaches on the same machine in the same run. A part that fails says why, and the others go on.
"""

import argparse
import contextlib
import dataclasses
import json
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
from vjax import ending, runtime, validation, weights, world
from vjax.config import Bucket, Group, RunConfig, Stage

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


def train(runs: int, model: str, config_path: str | None) -> dict[str, float | str]:
    """One kind of update, fed by the data pipeline: the most frequent of a config's last stage.

    Without a config it trains the DiT and the text encoder of `model` on images and clips.
    """
    from vjax.data.loader import Stream
    from vjax.parallel import mesh as meshes
    from vjax.parallel import rules
    from vjax.training.plan import Plan
    from vjax.training.start import starting_point
    from vjax.training.state import init_state, train_step

    config = _run_config(model) if config_path is None else validation.load_config(config_path)
    if config.trains == "dit":  # speed does not need a config's own weights
        config = dataclasses.replace(config, vae=model, frozen=())
    last = config.stages[-1]
    group = max(last.groups, key=lambda group: group.share)
    stage = dataclasses.replace(last, groups=(group,), steps=runs + 2)
    begin = starting_point(dataclasses.replace(config, stages=(stage,)))
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
    median = float(np.median(took[2:]))
    flops = sum(task.flops(bucket) for bucket in group.buckets)
    return {
        "train_seconds_per_update": median,
        "train_clips_per_second": sum(bucket.batch for bucket in group.buckets) / median,
        "train_model_gflops_per_second": flops / median / 1e9,
        "train_data_wait_share": float(np.sum(waited[2:]) / np.sum(took[2:])),
        "train_dtype": str(task.dtype),
    }


def _run_config(model: str) -> RunConfig:
    bundle = weights.read_config(model)
    height, width = bundle.height, bundle.width
    group = Group(
        (Bucket(1, height, width, batch=24), Bucket(bundle.frames, height, width, batch=8))
    )
    return RunConfig(
        name="bench", trains="dit", model=bundle, init=model, stages=(Stage((group,), steps=1),)
    )


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


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m vjax.bench", description=__doc__)
    parser.add_argument("what", nargs="*", help="matmul data train sample; default: all")
    parser.add_argument("--config", help="a run for train; default: the model itself")
    parser.add_argument("--model", default="default", help="for sample and train")
    parser.add_argument("--runs", type=int, default=9, help="the median of so many (9)")
    parser.add_argument("--steps", type=int, help="sampling steps; default: the model's")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    runs, model = options.runs, options.model
    parts: dict[str, Callable[[], dict]] = {
        "matmul": lambda: matmul(runs),
        "data": lambda: data(runs),
        "train": lambda: train(runs, model, options.config),
        "sample": lambda: sample(runs, model, options.steps),
    }
    unknown = [name for name in options.what if name not in parts]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}: choose from {', '.join(parts)}.")
    if runs < 1:
        parser.error(f"--runs must be 1 or more, got {runs}.")
    results: dict = {"jax": jax.__version__}
    status = 0
    try:
        runtime.set_up()
        results["device"] = jax.devices()[0].device_kind
        for name in options.what or parts:
            try:
                results |= parts[name]()
            except Exception as error:  # whatever it is, the other parts have their figures
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                print(f"vjax.bench: {name} failed: {kind}{error}", file=sys.stderr)
                status = 1
    except KeyboardInterrupt as interrupt:  # finished parts have their figures, too
        print("vjax.bench: interrupted.", file=sys.stderr)
        status = ending.status(interrupt)
    peak, reached = (results.get(f"{k}_gflops_per_second") for k in ("matmul", "train_model"))
    if peak and reached:
        results["train_share_of_matmul"] = reached / peak
    if options.json:
        print(json.dumps(results))
    else:
        for key, value in results.items():
            print(f"{key:32} {value if isinstance(value, str) else format(value, '.4g')}")
    return status


if __name__ == "__main__":
    ending.heed_signals()
    sys.exit(main())
