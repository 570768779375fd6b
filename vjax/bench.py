"""Speed on this machine: `python -m vjax.bench`, or only some of: matmul data train sample.

Model FLOPs are counted by hand (`vjax.models.flops`) and set against what a large matrix product
reaches on the same machine in the same run.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vjax import config as configs
from vjax import runtime, validation, world
from vjax.data import loader
from vjax.models.flops import train_flops
from vjax.training.plan import Plan
from vjax.training.start import starting_point
from vjax.training.state import init_state, train_step

PROMPT = "a red circle moves right on a black background"


def seconds(call: Callable[[], object], runs: int = 5) -> float:
    """Median seconds of a call, after one that compiles."""
    jax.block_until_ready(call())
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        jax.block_until_ready(call())
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def matmul(size: int | None = None) -> dict[str, float]:
    """What the machine reaches in one large matrix product."""
    on_cpu = jax.default_backend() == "cpu"
    size = size or (2048 if on_cpu else 8192)
    dtype = jnp.float32 if on_cpu else jnp.bfloat16
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return {"matmul_gflops_per_second": 2 * size**3 / seconds(lambda: product(a), 9) / 1e9}


def data(clips: int = 100) -> dict[str, float]:
    """Drawing of the captioned world, in one thread."""
    world.clip(0, frames=33, height=128, width=128)
    began = time.perf_counter()
    for index in range(clips):
        world.clip(index, frames=33, height=128, width=128)
    return {"clips_per_second_33x128x128": clips / (time.perf_counter() - began)}


def train(config_path: str, vae: str, steps: int = 10) -> dict[str, float | str]:
    """The most frequent update of a config's last stage, fed by the data pipeline."""
    config = validation.load_config(config_path)
    if config.trains == "dit":
        config = configs.replace(config, vae=vae, frozen=())  # speed does not need their weights
    last = config.stages[-1]
    group = max(last.groups, key=lambda group: group.share)
    stage = configs.replace(last, groups=(group,), steps=steps + 2)
    begin = starting_point(configs.replace(config, stages=(stage,)))
    task, config = begin.task, begin.task.config
    state = init_state(task, begin.given)
    plan = Plan(config.stages)
    stream = loader.batches(config, plan, tokenizer=begin.tokenizer, start=0, stop=plan.steps)
    waited, took = [], []
    for step in range(plan.steps):
        began = time.perf_counter()
        batch = next(stream)
        waited.append(time.perf_counter() - began)
        update = plan[step]
        state, metrics = train_step(task, state, begin.frozen, batch.parts, update.rate, update.ema)
        jax.block_until_ready((state, metrics))
        took.append(time.perf_counter() - began)
    median = float(np.median(took[2:]))
    flops = sum(train_flops(config, bucket) for bucket in group.buckets)
    return {
        "train_seconds_per_update": median,
        "train_clips_per_second": sum(bucket.batch for bucket in group.buckets) / median,
        "train_model_gflops_per_second": flops / median / 1e9,
        "train_data_wait_share": float(np.sum(waited[2:]) / np.sum(took[2:])),
        "train_dtype": str(task.dtype),
    }


def sample(model: str) -> dict[str, float]:
    """One video: in this process once warm, and whole new processes, cold and with a warm cache."""
    import os
    import tempfile

    import vjax

    pipe = vjax.load(model)
    result = {"sample_seconds_warm": seconds(lambda: pipe(vjax.text(PROMPT)), 3)}
    with tempfile.TemporaryDirectory() as directory:
        out = pathlib.Path(directory) / "video.mp4"
        command = [sys.executable, "-m", "vjax.sample", "--prompt", PROMPT, "--model", model]
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{directory}/cache"}
        for name in ("cold", "warm_cache"):
            began = time.perf_counter()
            subprocess.run(
                [*command, "--out", str(out)], check=True, env=environment, capture_output=True
            )
            result[f"process_seconds_{name}"] = time.perf_counter() - began
    import resource

    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {**result, "process_peak_gigabytes": children / 2**20}


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m vjax.bench", description=__doc__)
    parser.add_argument("what", nargs="*", help="matmul data train sample; default: all")
    parser.add_argument("--config", default="configs/world_dit.py", help="for train")
    parser.add_argument("--model", default="default", help="for sample, and the VAE of train")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    parts: dict[str, Callable[[], dict]] = {
        "matmul": matmul,
        "data": data,
        "train": lambda: train(options.config, options.model),
        "sample": lambda: sample(options.model),
    }
    unknown = [name for name in options.what if name not in parts]
    if unknown:
        print(f"vjax.bench: there is no {unknown[0]!r}: choose from {', '.join(parts)}.")
        return 2
    runtime.set_up()
    results: dict = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    for name in options.what or parts:
        results |= parts[name]()
    peak, model = (results.get(f"{k}_gflops_per_second") for k in ("matmul", "train_model"))
    if peak and model:
        results["train_share_of_matmul"] = model / peak
    if options.json:
        print(json.dumps(results))
    else:
        for key, value in results.items():
            print(f"{key:32} {value if isinstance(value, str) else format(value, '.4g')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
