"""Trains a VAE or a DiT with its text encoder: `python -m vjax.train configs/FILE.py`.

Any field of the config can be changed on the command line: `--steps=100
--stages.0.learning_rate=1e-3`. A run keeps everything in `RUN_DIR/NAME`: checkpoints, TensorBoard
files, samples and the bundle that `vjax.load` reads. Started again, it goes on where it stopped,
and ends with the same bits as a run that never stopped.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import math
import pathlib
import pprint
import signal
import sys
import time
from typing import NoReturn

import jax

from vjax import models, runtime, validation, weights
from vjax.config import Bucket, ConfigError, RunConfig
from vjax.data.loader import Stream
from vjax.data.resident import Resident
from vjax.parallel import cluster, rules
from vjax.parallel import mesh as meshes
from vjax.training import preview
from vjax.training.checkpoint import CheckpointError, Checkpoints
from vjax.training.figures import Figures
from vjax.training.goodput import Goodput
from vjax.training.meter import Meter
from vjax.training.minutes import TimedPlan
from vjax.training.plan import Plan, Update
from vjax.training.process import Interrupt, Stopped, StopSignal, alone_in
from vjax.training.resume import inputs
from vjax.training.start import Start, starting_point
from vjax.training.state import State, compile_ahead, init_state, restart, train_step

log = logging.getLogger("vjax")


class NotFinite(RuntimeError):
    """The loss is no longer a number."""


def train(config: RunConfig) -> pathlib.Path:
    """Runs the training to its end and returns the directory of the bundle, or of the LoRA.

    Raises:
        ConfigError: the run cannot work, or another process is at it. Nothing was written then.
        CheckpointError: a checkpoint could not be read or written.
        NotFinite: the loss is no longer a number.
        Stopped: SIGTERM or SIGINT came, to this process or to another; what was reached is saved.
    """
    began = time.monotonic()
    with StopSignal() as stop:
        try:
            processes = cluster.start(config, stop)
        except Interrupt:
            told = "Stopped while it waited for the other processes."
            raise Stopped(told, stop.status(saved=True)) from None
        if "://" in config.run_dir:
            raise ConfigError(
                f"run_dir is {config.run_dir}, and must be a directory: mount the bucket on every "
                "host (tpu_scripts/setup.sh --share gs://BUCKET does, with its directory runs "
                "as --run_dir=runs) and give its path."
            )
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
        # The processes of one run share its directory: the first holds it for all and writes.
        with alone_in(run_dir) if processes.index == 0 else contextlib.nullcontext():
            processes.share(run_dir)
            stopped = None
            try:
                _run(begin, plan, mesh, run_dir, processes, began)
            except Stopped as ended:
                stopped = ended
            except Interrupt:
                stopped = Stopped("Stopped before the first update.", stop.status(saved=True))
            processes.leave()
            if stopped is not None:
                raise stopped
        return run_dir / begin.task.saves


def _run(
    begin: Start,
    plan: Plan,
    mesh: jax.sharding.Mesh,
    run_dir: pathlib.Path,
    processes: cluster.Processes,
    began: float,
) -> None:
    # --- Model -------------------------------------------------------------------------------
    task, config, tokenizer = begin.task, begin.task.config, begin.tokenizer
    first = processes.index == 0  # which does what one does for all
    goodput = Goodput(run_dir / "goodput.json" if first else None, began)
    files = inputs(config, task.dtype, begin.frozen, begin.given, tokenizer)
    processes.agree({f"the content of {name}": value for name, value in files.items()})
    checkpoints = Checkpoints(run_dir / "checkpoints", config, files)
    found = checkpoints.newest(processes)
    frozen, state = processes.wait(lambda: _placed(begin, mesh, checkpoints, found))
    start = int(state["step"])
    goodput.begin(start)
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
        "resuming at" if found is not None else "starting at",
        start,
        plan.steps if config.minutes is None else f"{config.minutes:g} minutes",
        run_dir,
    )

    # --- Data --------------------------------------------------------------------------------
    feed: type[Resident] | type[Stream] = Resident if config.data.resident else Stream
    data = feed(config, plan, mesh, tokenizer, task.caption_dropout, start)
    programs: dict[Bucket, concurrent.futures.Future] = {}
    if isinstance(data, Resident):  # while the first clips are drawn
        data.least = processes.least
        shapes = {bucket: data.abstract(bucket) for bucket in plan.buckets}
        programs = compile_ahead(task, state, frozen, shapes, mesh)

    # --- Loop --------------------------------------------------------------------------------
    # Step N is dispatched before the metrics of step N - 1 are read, so the device never waits.
    # All that can take long, and differently long on each host, is waited for together: there a
    # signal to any process is heard by all, before the same step.
    meter, previous = Meter(task, plan), None
    figures = Figures(run_dir / "tensorboard" if first else None)
    with contextlib.closing(checkpoints), contextlib.closing(figures), contextlib.closing(data):

        def report(update: Update, metrics: dict) -> None:
            _report(meter.finish(update, metrics), config, plan, figures, checkpoints, goodput)

        done, over, stopped = start, start >= plan.steps, False
        saved, exported = found, None
        while not over:
            update = plan[done]
            try:
                with meter.waiting(), goodput.spent("start" if done == start else "data"):
                    processes.wait(functools.partial(data.wait, update))
                if meter.is_new(update):
                    if previous is not None:  # whose speed is not that of a compiler
                        report(*previous)
                        previous = None
                    meter.begin(update)
                    with goodput.spent("start"):
                        if isinstance(data, Stream):
                            shapes = {b: data.abstract(b) for b in set(update.group.buckets)}
                            shapes = {b: s for b, s in shapes.items() if b not in programs}
                            programs |= compile_ahead(task, state, frozen, shapes, mesh)
                        wanted = [programs[b] for b in update.group.buckets if b in programs]
                        processes.wait(functools.partial(concurrent.futures.wait, wanted))
                    meter.pause()
            except Interrupt:
                stopped = True
                break
            with meshes.use(mesh, config.mesh):
                if update.restart:
                    state = restart(task, state)
                parts = data.take(update)
                state, metrics = train_step(
                    task, state, frozen, parts, update.rate, update.ema, programs
                )
            if previous is not None:
                report(*previous)
            previous = (update, metrics)
            done += 1
            over = plan.is_over(done)
            shows = _due(config.sample_every, done, over)
            # A preview can take minutes: what was reached is saved before it.
            if over or shows or _due(config.checkpoint_every, done, over):
                report(*previous)
                previous = None
                if config.checkpoint_every:
                    with goodput.spent("checkpoint"):
                        checkpoints.save(saved := done, state)
                    goodput.note(done, now=True)
                    if first and not over:
                        log.info("time %s", goodput)
            with goodput.spent("preview"):
                if over:
                    _export(begin, run_dir, state, frozen)
                    if config.minutes is not None and first:
                        _write_repeat(config, plan, data, done, run_dir / "repeat.py")
                elif shows:
                    exported = done
                    with _goes_on("bundle", done, processes):
                        _export(begin, run_dir, state, frozen)
                # Who asks to stop may not wait for samples.
                with contextlib.suppress(Interrupt), _goes_on("preview", done, processes):
                    if shows:
                        params = {**frozen, **state["ema"]}
                        make = functools.partial(preview.make, task, params, begin.tokenizer)
                        place, made = (run_dir, done, figures), processes.wait(make)
                        write = functools.partial(preview.write, task, *place, *made)
                        processes.wait(write if first else lambda: None)
            if over or shows:
                meter.pause()
            goodput.switch("steps")
        if done == start and over:  # the run had ended, but perhaps before its bundle was written
            _export(begin, run_dir, state, frozen)
        if stopped and previous is not None:
            report(*previous)
        with goodput.spent("checkpoint"):
            if stopped and done > start and config.checkpoint_every and saved != done:
                checkpoints.save(done, state)
            checkpoints.wait()
        goodput.note(done, now=True)
        if first:
            log.info("time %s", goodput)
        if stopped:
            kept = (begin, run_dir, state, frozen) if exported != done else None
            _stop(config, done, done > start, processes.stop, kept)


def _placed(
    begin: Start, mesh: jax.sharding.Mesh, checkpoints: Checkpoints, step: int | None
) -> tuple[models.Params, State]:
    """What is used but not trained, and the state: of a checkpoint, or that before the first step.

    Neither is there twice, on the host or on the devices, when this returns.
    """
    task = begin.task
    frozen = rules.placed(begin.frozen, mesh)
    begin.frozen.clear()
    init = functools.partial(init_state, task)
    with meshes.use(mesh, task.config.mesh):
        if step is None:
            given = rules.placed(begin.given, mesh)
            state = rules.placed(init(given), mesh)
        else:
            shapes = jax.eval_shape(init, begin.given)
    begin.given.clear()
    if step is not None:
        like = jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            shapes,
            rules.shardings(shapes, mesh),
        )
        state = checkpoints.read(step, like)
    return frozen, state


def _stop(
    config: RunConfig, done: int, moved: bool, stop: StopSignal, unsaved: tuple | None
) -> NoReturn:
    """Ends a run that a signal came to, once all that can be saved is saved.

    Args:
        unsaved: what makes the bundle; None where it was written before a preview, which devices
            may be at still: then they can do nothing else together.
    """
    if not moved:
        told = f"Stopped at step {done}, before the first update."
        raise Stopped(told, stop.status(saved=True))
    kept, saved = "the same command goes on from there", True
    if config.minutes is not None:
        kept = "its bundle is what was reached, since a run by the clock cannot go on"
        saved = False
    elif not config.checkpoint_every:
        kept, saved = "nothing but its bundle was saved, since checkpoint_every is 0", False
    # A preemption leaves little time.
    if unsaved is not None and (not saved or stop.number == signal.SIGINT):
        _export(*unsaved)
    raise Stopped(f"Stopped at step {done}; {kept}.", stop.status(saved))


@contextlib.contextmanager
def _goes_on(what: str, done: int, processes: cluster.Processes):
    """Says what could not be written on the way, such as on a full disk; the run goes on."""
    try:
        yield
    except Exception as error:
        if processes.together and processes.stopped:  # some wait for devices that do not answer
            raise
        log.warning("The %s of step %d failed: %s: %s", what, done, type(error).__name__, error)


def _due(every: int, done: int, over: bool) -> bool:
    """Whether something happens after so many updates, as it does after the last; 0 is never."""
    return bool(every) and (done % every == 0 or over)


def _export(begin: Start, run_dir: pathlib.Path, state, frozen) -> None:
    """Writes the averaged weights; all processes call it, since all have parts."""
    task = begin.task
    params = meshes.fetch(task.whole(frozen, state["ema"]))
    updates = int(state["step"])
    if jax.process_index():
        return
    said = f"{task.config.name}: {updates} updates, seed {task.config.seed}, {begin.sources}"
    task.save(run_dir / task.saves, params, begin.tokenizer, said)


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
    entry: dict,
    config: RunConfig,
    plan: Plan,
    figures: Figures,
    checkpoints: Checkpoints,
    goodput: Goodput,
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
    goodput.note(step + 1)
    if _due(config.log_every, step + 1, step + 1 == plan.steps):
        shares = goodput.shares()
        figures.write({f"time/{kind}": share for kind, share in shares.items()}, step)
        entry["goodput"] = shares["steps"]
        shown = "  ".join(f"{name} {value:.4g}" for name, value in entry.items())
        log.info("step %d  %s", step + 1, shown)


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
        runtime.set_up()  # before a config file can make an array
        config = validation.override(validation.load_config(arguments[0]), arguments[1:])
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
