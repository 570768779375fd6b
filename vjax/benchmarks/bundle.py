"""Speed of a bundle: drawing of clips, updates, and whole videos."""

import contextlib
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

import vjax
from vjax import weights, world
from vjax.benchmarks.machine import seconds
from vjax.benchmarks.updates import speed_of_update
from vjax.config import Bucket, Group, RunConfig, Stage

PROMPT = "a red circle moves right on a black background"


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
        **speed_of_update(task, plan[0].group, float(np.median(took[2:]))),
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
