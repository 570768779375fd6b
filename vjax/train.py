"""Trains a VAE or a DiT with its text encoder: `python -m vjax.train configs/FILE.py`.

Any field of the config can be changed on the command line: `--steps=100
--stages.0.learning_rate=1e-3`. A run keeps everything in `RUN_DIR/NAME`: checkpoints, TensorBoard
files, samples and the bundle that `vjax.load` reads. Started again, it goes on where it stopped,
and ends with the same bits as a run that never stopped.
"""

import contextlib
import dataclasses
import logging
import math
import pathlib
import pprint
import sys
import time

import jax
import numpy as np
import psutil

from vjax import runtime, validation, weights
from vjax.config import ConfigError, Group, RunConfig
from vjax.data.loader import Stream
from vjax.data.resident import Resident
from vjax.parallel import cluster, rules
from vjax.parallel import mesh as meshes
from vjax.training import preview
from vjax.training.checkpoint import CheckpointError, Checkpoints
from vjax.training.figures import Figures
from vjax.training.minutes import TimedPlan
from vjax.training.plan import Plan, Update
from vjax.training.process import Interrupt, Stopped, StopSignal, alone_in
from vjax.training.resume import inputs
from vjax.training.start import Start, starting_point
from vjax.training.state import compile_ahead, init_state, restart, train_step
from vjax.training.task import Task

log = logging.getLogger("vjax")


class NotFinite(RuntimeError):
    """The loss is no longer a number."""


def train(config: RunConfig) -> pathlib.Path:
    """Runs the training to its end and returns the directory of the bundle.

    Raises:
        ConfigError: the run cannot work, or another process is at it. Nothing was written then.
        CheckpointError: a checkpoint could not be read or written.
        NotFinite: the loss is no longer a number.
        Stopped: SIGTERM or SIGINT came; what was reached is saved.
    """
    began = time.monotonic()
    processes = cluster.start(config)
    mesh = meshes.make_mesh(config.mesh)
    begin = starting_point(config)
    config = begin.task.config
    plan: Plan = Plan(config.stages, config.steps)
    if config.minutes is not None:
        seconds, agreed = 60 * config.minutes, processes.first
        plan = TimedPlan(config.stages, config.steps, seconds, agreed(began), agreed)
    meshes.check(config.mesh, mesh, config.model)
    for bucket in plan.buckets:
        begin.task.check(bucket, meshes.shares(mesh))
    begin.task.check_preview(begin.tokenizer)
    run_dir = pathlib.Path(config.run_dir) / config.name
    run_dir.mkdir(parents=True, exist_ok=True)
    weights.check_replaceable(run_dir / "bundle")  # rather now than after the training
    # The processes of one run share its directory: the first holds it for all and writes its files.
    with alone_in(run_dir) if processes.index == 0 else contextlib.nullcontext():
        processes.share(run_dir)
        _run(begin, plan, mesh, run_dir, processes)
        processes.leave()
    return run_dir / "bundle"


def _run(
    begin: Start,
    plan: Plan,
    mesh: jax.sharding.Mesh,
    run_dir: pathlib.Path,
    processes: cluster.Processes,
) -> None:
    # --- Model -------------------------------------------------------------------------------
    task, config, tokenizer = begin.task, begin.task.config, begin.tokenizer
    files = inputs(config, task.dtype, begin.frozen, begin.given, tokenizer)
    processes.agree({f"the content of {name}": value for name, value in files.items()})
    frozen, given = rules.placed(begin.frozen, mesh), rules.placed(begin.given, mesh)
    with meshes.use(mesh, config.mesh):
        state = rules.placed(init_state(task, given), mesh)
    checkpoints = Checkpoints(run_dir / "checkpoints", config, files)
    restored = checkpoints.restore(state)
    if restored is not None:
        state = restored
    start = int(state["step"])
    if config.minutes is not None and start:
        raise ConfigError(
            f"The run in {run_dir} has begun. One that ends by the clock is made in one go: give "
            "it another --name."
        )
    for problem in rules.undivided(frozen | state["params"], mesh):
        log.warning("%s", problem)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    log.info(
        "%s: %s parameters, %s, %s step %d of %s, in %s",
        config.name,
        f"{parameters:,}",
        meshes.describe(mesh),
        "resuming at" if restored is not None else "starting at",
        start,
        plan.steps if config.minutes is None else f"{config.minutes:g} minutes",
        run_dir,
    )

    # --- Data --------------------------------------------------------------------------------
    feed: type[Resident] | type[Stream] = Resident if config.data.resident else Stream
    data = feed(config, plan, mesh, tokenizer, task.caption_dropout, start)
    programs = {}
    if isinstance(data, Resident):  # while the first clips are drawn
        data.least = processes.least
        shapes = {bucket: data.abstract(bucket) for bucket in plan.buckets}
        programs = compile_ahead(task, state, frozen, shapes, mesh)

    # --- Loop --------------------------------------------------------------------------------
    # Step N is dispatched before the metrics of step N - 1 are read, so the device never waits.
    meter, previous = _Meter(task, plan), None
    figures = Figures(run_dir / "tensorboard" if processes.index == 0 else None)
    with (
        contextlib.closing(checkpoints),
        contextlib.closing(figures),
        contextlib.closing(data),
        StopSignal() as stop,
    ):
        done, over = start, start >= plan.steps
        if isinstance(data, Resident) and not over:
            try:
                with stop.breaks_off():  # clips can take long to come, and nothing is lost yet
                    data.wait(plan[start])
            except Interrupt:
                raise Stopped(
                    f"Stopped at step {start}, before the first update.", stop.status(saved=True)
                ) from None
        while not over:
            update = plan[done]
            with meshes.use(mesh, config.mesh):
                if update.restart:
                    state = restart(task, state)
                meter.announce(update)
                with meter.waiting():
                    parts = data.take(update)
                state, metrics = train_step(
                    task, state, frozen, parts, update.rate, update.ema, programs
                )
            if previous is not None:
                _report(meter.finish(*previous), config, plan, figures, checkpoints)
            previous = (update, metrics)
            done += 1
            over = plan.is_over(done)
            stopped = stop.heard(processes.most)  # by any of them, and all save the same step
            last = over or stopped
            shows = _due(config.sample_every, done, over)
            # A preview can take minutes: what was reached is saved before it.
            if last or shows or _due(config.checkpoint_every, done, over):
                _report(meter.finish(*previous), config, plan, figures, checkpoints)
                previous = None
                if config.checkpoint_every:
                    checkpoints.save(done, state)
            if over:
                _export(begin, run_dir, state, frozen)
                if config.minutes is not None and processes.index == 0:
                    _write_repeat(config, plan, data, done, run_dir / "repeat.py")
            if stopped:
                checkpoints.wait()
            if last or shows:
                if not over:
                    with _goes_on("bundle", done):
                        _export(begin, run_dir, state, frozen)
                # Who asks to stop may not wait for samples.
                with contextlib.suppress(Interrupt), _goes_on("preview", done), stop.breaks_off():
                    if shows and processes.index == 0:
                        preview.write(task, run_dir, done, figures)
                stopped = stop.heard(processes.most)
                meter.pause()
            if stopped:
                checkpoints.wait()
                kept, saved = "the same command goes on from there", True
                if config.minutes is not None:
                    kept = "its bundle is what was reached, since a run by the clock cannot go on"
                    saved = False
                elif not config.checkpoint_every:
                    kept, saved = "nothing was saved, since checkpoint_every is 0", False
                processes.leave()
                raise Stopped(f"Stopped at step {done}; {kept}.", stop.status(saved))
        if done == start:  # the run had ended, but perhaps before its bundle was written
            _export(begin, run_dir, state, frozen)


@contextlib.contextmanager
def _goes_on(what: str, done: int):
    """Says what could not be written on the way, such as on a full disk; the run goes on."""
    try:
        yield
    except Exception as error:
        log.warning("The %s of step %d failed: %s: %s", what, done, type(error).__name__, error)


def _due(every: int, done: int, over: bool) -> bool:
    """Whether something happens after so many updates, as it does after the last; 0 is never."""
    return bool(every) and (done % every == 0 or over)


def _export(begin: Start, run_dir: pathlib.Path, state, frozen) -> None:
    """Writes the averaged weights as a bundle; all processes call it, since all have parts."""
    params = meshes.fetch({**frozen, **state["ema"]})
    config, model = begin.task.config, begin.task.model(params)
    updates, seed = int(state["step"]), config.seed
    origin = f"{config.name}: {updates} updates, seed {seed}, {begin.sources}"
    model = dataclasses.replace(model, origin=origin)
    if jax.process_index() == 0:
        weights.save(run_dir / "bundle", weights.Bundle(model, params, begin.tokenizer))


def _write_repeat(config: RunConfig, plan: Plan, data, done: int, path: pathlib.Path) -> None:
    """Writes what a run by the clock did as a config that repeats it by steps."""
    arrivals = tuple(data.joined) if isinstance(data, Resident) else ()
    config = dataclasses.replace(
        config,
        name=f"{config.name}_again",
        minutes=None,
        stages=plan.stages,
        steps=None if done == plan.ends[-1] else done,
        data=dataclasses.replace(config.data, arrivals=arrivals),
    )
    values = pprint.pformat(validation.to_dict(config), sort_dicts=False, width=98)
    # No path is in it but in quotes, since a path can hold anything.
    path.write_text(
        f'"""Repeats the run {path.parent.name}, which ended by the clock, by steps.\n\n'
        '    python -m vjax.train repeat.py\n"""\n\n'
        "from vjax import validation\nfrom vjax.config import RunConfig\n\n\n"
        f"def get_config() -> RunConfig:\n    return validation.from_dict(RunConfig, VALUES)\n\n\n"
        f"VALUES = {values}\n",
        encoding="utf-8",
    )
    log.info("%s repeats this run by steps.", path)


def _report(
    entry: dict, config: RunConfig, plan: Plan, figures: Figures, checkpoints: Checkpoints
) -> None:
    step = entry.pop("step")
    if not (math.isfinite(entry["loss"]) and math.isfinite(entry["gradient_norm"])):
        try:
            good = checkpoints.last()
            where = f"the last good checkpoint is step {good}"
            where = where if good else "there is no checkpoint yet"
        except CheckpointError as error:
            where = f"the last checkpoint could not be written ({error})"
        raise NotFinite(
            f"The loss is {entry['loss']} and the norm of its gradient {entry['gradient_norm']} at "
            f"step {step}; {where}. Run the same command with a lower "
            f"--stages.{plan.stage_number(step)}.learning_rate or --optimizer.clip_norm, which "
            "usually helps."
        )
    figures.write(entry, step)
    if _due(config.log_every, step + 1, step + 1 == plan.steps):
        shown = "  ".join(f"{name} {value:.4g}" for name, value in entry.items())
        log.info("step %d  %s", step + 1, shown)


class _Meter:
    """Turns metrics of finished steps into figures, with memory, speed and the share of waiting."""

    def __init__(self, task: Task, plan: Plan):
        self.task, self.plan = task, plan
        self.clock = time.perf_counter()
        self.waited = 0.0
        self.speed: np.ndarray | None = None
        self.began: dict[Group, int] = {}  # the step at which each group was compiled

    def announce(self, update: Update):
        """Says why the first update of a group takes long."""
        if update.group not in self.began:
            self.began[update.group] = update.step
            shapes = (f"{b.batch} x {b.frames}x{b.height}x{b.width}" for b in update.group.buckets)
            log.info("step %d  compiling %s …", update.step + 1, ", ".join(shapes))

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
        entry["host_gb"] = psutil.Process().memory_info().rss / 1e9
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        clips = sum(bucket.batch for bucket in group.buckets)
        flops = sum(self.task.flops(bucket) for bucket in group.buckets)
        sample = np.array([seconds, clips, flops, min(self.waited, seconds)])
        self.waited = 0.0
        if update.step != self.began[group]:  # where a group is compiled says nothing of speed
            self.speed = sample if self.speed is None else 0.95 * self.speed + 0.05 * sample
        if self.speed is None:
            return entry
        seconds, clips, flops, waited = self.speed
        entry["clips_per_second"] = clips / seconds
        entry["model_gflops_per_second"] = flops / seconds / 1e9
        entry["data_wait"] = waited / seconds
        if self.task.config.minutes is None:
            entry["hours_left"] = (self.plan.steps - update.step - 1) * seconds / 3600
        return entry


class _Stopwatch:
    def __init__(self, meter: _Meter):
        self.meter = meter

    def __enter__(self):
        self.began = time.perf_counter()

    def __exit__(self, *_):
        self.meter.waited += time.perf_counter() - self.began


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Forced, since the import of orbax has set its own.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    for name in ("absl", "asyncio"):  # what fails in threads of orbax is raised as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
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
    except Stopped as ended:
        print(f"vjax.train: {ended}", file=sys.stderr)
        return ended.status
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    cluster.end(main)
