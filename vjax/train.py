"""Trains a VAE or a DiT with its text encoder: `python -m vjax.train configs/FILE.py`.

Any field of the config can be changed on the command line: `--steps=100
--stages.0.learning_rate=1e-3`. A run keeps everything in `RUN_DIR/NAME`: checkpoints, TensorBoard
files, samples and the bundle that `vjax.load` reads. Started again, it goes on where it stopped,
and ends with the same bits as a run that never stopped.
"""

import contextlib
import logging
import math
import pathlib
import signal
import sys
import time

import jax
import numpy as np
from tensorboardX import SummaryWriter

from vjax import config as configs
from vjax import runtime, validation, weights
from vjax.config import ConfigError, Group, RunConfig
from vjax.data import loader
from vjax.models.flops import train_flops
from vjax.parallel import mesh as meshes
from vjax.training import preview
from vjax.training.checkpoint import CheckpointError, Checkpoints
from vjax.training.plan import Plan, Update
from vjax.training.resume import inputs
from vjax.training.start import starting_point
from vjax.training.state import init_state, restart, train_step
from vjax.training.task import Task

log = logging.getLogger("vjax")


class NotFinite(RuntimeError):
    """The loss is no longer a number."""


def train(config: RunConfig) -> pathlib.Path:
    """Runs the training to its end and returns the directory of the bundle."""
    # --- Model -------------------------------------------------------------------------------
    mesh = meshes.make_mesh()
    everywhere = meshes.replicated(mesh)
    begin = starting_point(config)
    task, config, tokenizer = begin.task, begin.task.config, begin.tokenizer
    plan = Plan(config.stages)
    for group in (group for stage in config.stages for group in stage.groups):
        for bucket in group.buckets:
            task.check(bucket, mesh.size)
    frozen = jax.device_put(begin.frozen, everywhere)
    state = jax.device_put(init_state(task, begin.given), everywhere)
    run_dir = pathlib.Path(config.run_dir) / config.name
    run_dir.mkdir(parents=True, exist_ok=True)
    files = inputs(config, task.dtype, begin.frozen, begin.given, tokenizer)
    checkpoints = Checkpoints(run_dir / "checkpoints", config, files)
    restored = checkpoints.restore(state)
    if restored is not None:
        state = restored
    start = int(state["step"])
    steps = plan.steps if config.steps is None else min(config.steps, plan.steps)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    log.info(
        "%s: %s parameters, %d devices, %s step %d of %d, in %s",
        config.name,
        f"{parameters:,}",
        mesh.size,
        "resuming at" if restored is not None else "starting at",
        start,
        steps,
        run_dir,
    )

    # --- Data --------------------------------------------------------------------------------
    data = loader.batches(
        config,
        plan,
        tokenizer=tokenizer,
        start=start,
        stop=steps,
        caption_dropout=task.caption_dropout,
        process=(jax.process_index(), jax.process_count()),
    )

    # --- Loop --------------------------------------------------------------------------------
    # Step N is dispatched before the metrics of step N - 1 are read, so the device never waits.
    meter, previous = _Meter(config, steps), None
    writer = SummaryWriter(str(run_dir / "tensorboard"))
    with (
        contextlib.closing(checkpoints),
        contextlib.closing(writer),
        _StopSignal() as stop,
        jax.sharding.set_mesh(mesh),
    ):
        for step in range(start, steps):
            update = plan[step]
            if update.restart:
                state = restart(task, state)
            with meter.waiting():
                batch = next(data)
            parts = [(bucket, meshes.place_batch(mesh, arrays)) for bucket, arrays in batch.parts]
            state, metrics = train_step(task, state, frozen, parts, update.rate, update.ema)
            if previous is not None:
                _report(meter.finish(*previous), config, writer, checkpoints)
            previous = (update, metrics)
            done = step + 1
            last = done == steps or stop.requested
            if last or done % config.checkpoint_every == 0:
                _report(meter.finish(*previous), config, writer, checkpoints)
                previous = None
                checkpoints.save(done, state)
            if last or done % config.sample_every == 0:
                bundle = _export(task, run_dir, state, frozen, tokenizer)
                if not stop.requested:  # who asks to stop may not wait for samples
                    preview.write(task, bundle, run_dir / "samples", done, writer)
                meter.pause()
            if stop.requested:
                log.info("Stopped at step %d; the same command goes on from there.", done)
                break
        if start >= steps:  # the run had ended, but perhaps before its bundle was written
            _export(task, run_dir, state, frozen, tokenizer)
    return run_dir / "bundle"


def _export(task: Task, run_dir: pathlib.Path, state, frozen, tokenizer) -> pathlib.Path:
    """Writes the averaged weights as a bundle."""
    params = jax.device_get({**frozen, **state["ema"]})
    config, model = task.config, task.model(params)
    origin = f"{config.name}: step {int(state['step'])}, seed {config.seed}"
    model = configs.replace(model, origin=origin)
    weights.save(run_dir / "bundle", weights.Bundle(model, params, tokenizer))
    return run_dir / "bundle"


def _report(entry: dict | None, config: RunConfig, writer, checkpoints: Checkpoints) -> None:
    if entry is None:
        return
    step = entry.pop("step")
    if not (math.isfinite(entry["loss"]) and math.isfinite(entry["gradient_norm"])):
        good = checkpoints.last()
        where = f"the last good checkpoint is step {good}" if good else "there is no checkpoint yet"
        raise NotFinite(
            f"The loss is {entry['loss']} and the norm of its gradient {entry['gradient_norm']} at "
            f"step {step}; {where}. A lower "
            "learning_rate of the stage or --optimizer.clip_norm usually helps."
        )
    for name, value in entry.items():
        writer.add_scalar(name, value, step)
    if (step + 1) % config.log_every == 0:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in entry.items())
        log.info("step %d  %s", step + 1, shown)


class _Meter:
    """Turns the metrics of finished steps into figures, with speed and the share of waiting."""

    def __init__(self, config: RunConfig, steps: int):
        self.config, self.steps = config, steps
        self.clock = time.perf_counter()
        self.waited = 0.0
        self.speed: np.ndarray | None = None
        self.compiled: set[Group] = set()

    def waiting(self):
        return _Stopwatch(self)

    def pause(self):
        """Leaves what happened since the last step out of the speed."""
        self.clock, self.waited = time.perf_counter(), 0.0

    def finish(self, update: Update, metrics: dict) -> dict:
        """Waits for one update's metrics and adds its speed, averaged over recent ones."""
        group = update.group
        entry = {"step": update.step, **{name: float(value) for name, value in metrics.items()}}
        entry["learning_rate"] = update.rate
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        clips = sum(bucket.batch for bucket in group.buckets)
        flops = sum(train_flops(self.config, bucket) for bucket in group.buckets)
        sample = np.array([seconds, clips, flops, min(self.waited, seconds)])
        self.waited = 0.0
        if group not in self.compiled:  # a group's first update compiles: it says nothing of speed
            self.compiled.add(group)
        else:
            self.speed = sample if self.speed is None else 0.95 * self.speed + 0.05 * sample
        if self.speed is None:
            return entry
        seconds, clips, flops, waited = self.speed
        entry["clips_per_second"] = clips / seconds
        entry["model_gflops_per_second"] = flops / seconds / 1e9
        entry["data_wait"] = waited / seconds
        entry["hours_left"] = (self.steps - update.step - 1) * seconds / 3600
        return entry


class _Stopwatch:
    def __init__(self, meter: _Meter):
        self.meter = meter

    def __enter__(self):
        self.began = time.perf_counter()

    def __exit__(self, *_):
        self.meter.waited += time.perf_counter() - self.began


class _StopSignal:
    """Remembers SIGTERM and SIGINT, so that the step in progress ends and is saved."""

    def __init__(self):
        self.requested = False

    def __enter__(self):
        signals = (signal.SIGTERM, signal.SIGINT)
        self.before = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    try:
        config = validation.override(validation.load_config(arguments[0]), arguments[1:])
        runtime.set_up()
        print(train(config))
    except (ConfigError, weights.BundleError, CheckpointError, NotFinite, OSError) as error:
        print(f"vjax.train: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
