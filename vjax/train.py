"""Trains a VAE or a DiT with its text encoder: `python -m vjax.train configs/FILE.py`.

Any field of the config can be changed on the command line: `--steps=100
--optimizer.learning_rate=1e-3`. A run keeps everything in `RUN_DIR/NAME`: checkpoints, TensorBoard
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
from vjax.config import Bucket, ConfigError, RunConfig
from vjax.data import loader
from vjax.models.flops import train_flops
from vjax.parallel import mesh as meshes
from vjax.tokenizer import read as read_tokenizer
from vjax.training import preview
from vjax.training.checkpoint import CheckpointError, Checkpoints
from vjax.training.resume import check_start, inputs
from vjax.training.state import TRAINED, compute_dtype, init_state, train_step

log = logging.getLogger("vjax")


class NotFinite(RuntimeError):
    """The loss is no longer a number."""


def train(config: RunConfig) -> pathlib.Path:
    """Runs the training to its end and returns the directory of the bundle."""
    # --- Model -------------------------------------------------------------------------------
    mesh = meshes.make_mesh()
    everywhere = meshes.replicated(mesh)
    config, frozen, given, tokenizer = starting_point(config)
    _check_buckets(config, mesh.size)
    frozen = jax.device_put(frozen, everywhere)
    state = jax.jit(init_state, static_argnums=0, out_shardings=everywhere)(config, given)
    run_dir = pathlib.Path(config.run_dir) / config.name
    run_dir.mkdir(parents=True, exist_ok=True)
    files = inputs(config, compute_dtype(config), frozen, given, tokenizer)
    checkpoints = Checkpoints(run_dir / "checkpoints", config, files)
    restored = checkpoints.restore(state)
    if restored is not None:
        state = restored
    start = int(state["step"])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    log.info(
        "%s: %s parameters, %d devices, %s step %d of %d, in %s",
        config.name,
        f"{parameters:,}",
        mesh.size,
        "resuming at" if restored is not None else "starting at",
        start,
        config.steps,
        run_dir,
    )

    # --- Data --------------------------------------------------------------------------------
    data = loader.batches(
        config.data,
        seed=config.seed,
        tokenizer=tokenizer,
        start=start,
        stop=config.steps,
        caption_dropout=config.dit_loss.caption_dropout if config.trains == "dit" else 0.0,
        process=(jax.process_index(), jax.process_count()),
    )

    # --- Loop --------------------------------------------------------------------------------
    # Step N is dispatched before the metrics of step N - 1 are read, so the device never waits.
    meter, previous = _Meter(config), None
    writer = SummaryWriter(str(run_dir / "tensorboard"))
    with (
        contextlib.closing(checkpoints),
        contextlib.closing(writer),
        _StopSignal() as stop,
        jax.sharding.set_mesh(mesh),
    ):
        for step in range(start, config.steps):
            with meter.waiting():
                batch = next(data)
            arrays = meshes.place_batch(mesh, batch.arrays)
            state, metrics = train_step(config, batch.bucket, state, frozen, arrays)
            if previous is not None:
                _report(meter.finish(*previous), config, writer, checkpoints)
            previous = (step, batch.bucket, metrics)
            done = step + 1
            last = done == config.steps or stop.requested
            if last or done % config.checkpoint_every == 0:
                _report(meter.finish(*previous), config, writer, checkpoints)
                previous = None
                checkpoints.save(done, state)
            if last or done % config.sample_every == 0:
                bundle = _export(config, run_dir, state, frozen, tokenizer)
                if not stop.requested:  # who asks to stop may not wait for samples
                    preview.write(config, bundle, run_dir / "samples", done, writer)
                meter.pause()
            if stop.requested:
                log.info("Stopped at step %d; the same command goes on from there.", done)
                break
        if start >= config.steps:  # the run had ended, but perhaps before its bundle was written
            _export(config, run_dir, state, frozen, tokenizer)
    return run_dir / "bundle"


def starting_point(config: RunConfig):
    """The config with the frozen VAE's, the frozen parameters, those to start from, a tokenizer."""
    frozen, given, tokenizer = {}, None, None
    if config.trains == "dit":
        if config.vae is None:
            raise ConfigError("A dit run needs the bundle of a trained VAE: --vae=DIRECTORY.")
        trained = weights.load(config.vae, networks=("vae",))
        model = configs.replace(config.model, vae=trained.config.vae)
        config, frozen = configs.replace(config, model=model), trained.params["vae"]
        for name, value, of, wanted in (
            ("in_channels", model.dit.in_channels, "the VAE's channels", model.vae.z_dim),
            ("out_channels", model.dit.out_channels, "the VAE's channels", model.vae.z_dim),
            ("text_width", model.dit.text_width, "the text encoder's width", model.text.width),
        ):
            if value != wanted:
                raise ConfigError(f"model.dit.{name} is {value}, but must be {of}, {wanted}.")
    for network in config.frozen:
        if network not in TRAINED.get(config.trains, ()) or config.init is None:
            raise ConfigError(
                f"frozen names {network!r}, which must be a network that this run trains and that "
                "comes from the bundle of --init."
            )
    if config.init is not None:
        start = weights.load(config.init, networks=TRAINED[config.trains])
        given, tokenizer = start.params, start.tokenizer
        if not given:
            raise ConfigError(f"{config.init} has no network that this run trains.")
        for network in given:
            found, wanted = (getattr(model, network) for model in (start.config, config.model))
            check_start(network, found, wanted, config.init)
    if config.trains == "dit" and config.tokenizer is not None:
        tokenizer = read_tokenizer(config.tokenizer, config.model.text)
    if config.trains == "dit" and tokenizer is None:
        raise ConfigError(
            "A dit run needs a tokenizer: --tokenizer=FILE, or --init=BUNDLE with a text encoder."
        )
    return config, frozen, given, tokenizer


def _check_buckets(config: RunConfig, devices: int) -> None:
    """Raises ConfigError for a bucket that the first step of its kind would fail on."""
    vae, dit = config.model.vae, config.model.dit
    ratio, side = (vae.temporal_ratio, vae.spatial_ratio) if vae else (1, 1)
    if config.trains == "dit":
        side *= max(dit.patch)
    elif config.trains == "vae" and config.vae_loss.equivariance:  # latents are halved
        side *= 2
    for bucket in config.data.buckets:
        problem = None
        if bucket.batch % devices:
            problem = f"batch must be a multiple of the {devices} devices"
        elif bucket.frames % ratio != 1 % ratio:
            problem = f"frames must be 1 + {ratio} k"
        elif any(n % side for n in (bucket.crop or bucket.height, bucket.crop or bucket.width)):
            problem = f"height, width and crop must be multiples of {side}"
        elif bucket.anchors and bucket.frames < 1 + ratio * (bucket.anchors - 1):
            problem = "there cannot be more anchors than latent frames"
        if problem is not None:
            raise ConfigError(f"{bucket} cannot be trained on: {problem}.")


def _export(config: RunConfig, run_dir: pathlib.Path, state, frozen, tokenizer) -> pathlib.Path:
    """Writes the averaged weights as a bundle."""
    params = {name: jax.device_get(state["ema"][name]) for name in TRAINED[config.trains]}
    model = config.model
    if config.trains == "vae":
        model = preview.with_latent_statistics(config, params["vae"])
    elif config.trains == "dit":
        params = {**params, "vae": jax.device_get(frozen)}
    origin = f"{config.name}: step {int(state['step'])} of {config.steps}, seed {config.seed}"
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
            "--optimizer.learning_rate or --optimizer.clip_norm usually helps."
        )
    for name, value in entry.items():
        writer.add_scalar(name, value, step)
    if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in entry.items())
        log.info("step %d/%d  %s", step + 1, config.steps, shown)


class _Meter:
    """Turns the metrics of finished steps into figures, with speed and the share of waiting."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.clock = time.perf_counter()
        self.waited = 0.0
        self.speed: np.ndarray | None = None
        self.compiled: set[Bucket] = set()

    def waiting(self):
        return _Stopwatch(self)

    def pause(self):
        """Leaves what happened since the last step out of the speed."""
        self.clock, self.waited = time.perf_counter(), 0.0

    def finish(self, step: int, bucket, metrics: dict) -> dict:
        """Waits for one step's metrics and adds its speed, averaged over recent steps."""
        entry = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        sample = np.array(
            [seconds, bucket.batch, train_flops(self.config, bucket), min(self.waited, seconds)]
        )
        self.waited = 0.0
        if bucket not in self.compiled:  # a bucket's first step compiles: it says nothing of speed
            self.compiled.add(bucket)
        else:
            self.speed = sample if self.speed is None else 0.95 * self.speed + 0.05 * sample
        if self.speed is None:
            return entry
        seconds, clips, flops, waited = self.speed
        entry["clips_per_second"] = clips / seconds
        entry["model_gflops_per_second"] = flops / seconds / 1e9
        entry["data_wait"] = waited / seconds
        entry["hours_left"] = (self.config.steps - step - 1) * seconds / 3600
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
