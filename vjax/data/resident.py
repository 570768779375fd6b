"""Clips that are drawn once, by every core of the host, and stay in device memory as bytes.

An accelerator trains on clips faster than a host draws them. So a run draws `data.resident` of them
in processes, and every update picks among them anew: which clips, which frame of one makes a
picture, which of several captions says it. Noise and what is known are drawn by the loss as ever.

Clips of one size lie in blocks of thousands, and each batch comes from one block. Which block and
which clips follows from the seed and the step alone, once it is said how many blocks there are.
"""

import concurrent.futures
import contextlib
import dataclasses
import logging
import multiprocessing
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import process
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

from vjax.config import Bucket, ConfigError, RunConfig
from vjax.data.drawing import CAPTIONS, MOVING, Job, Shape, draw, follow_parent
from vjax.parallel import mesh as meshes
from vjax.parallel import rules
from vjax.tokenizer import Tokenizer
from vjax.training.plan import Plan, Update

log = logging.getLogger("vjax")

BLOCK = 2000  # clips
BYTES = 2**31 - 1  # of a block: indices are int32
PIECE = 50  # clips that a process draws at a time
SPARE = 0.2  # share of an accelerator's memory that is left to training

_CHOICE = 14  # what randomness is for, as in the loader


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """Clips of one shape. Axis D counts shares of a batch: each picks among its own clips."""

    pixels: Any  # uint8 [D N T H W 3], on the devices
    ids: np.ndarray  # [D N CAPTIONS S]
    mask: np.ndarray
    one: np.ndarray  # [D N]: shows one thing under a still camera
    whole: np.ndarray  # [D N]: the captions are true of the whole clip alone: a cut, a wall


class Resident:
    """The clips of one run. Drawing begins at once; close it to end it.

    Raises:
        ConfigError: clips are stored ones, or there are fewer than devices.
    """

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        mesh: Mesh,
        tokenizer: Tokenizer | None,
        caption_dropout: float = 0.0,
        start: int = 0,
    ):
        if config.data.source != "world":
            raise ConfigError("data.resident keeps drawn clips; set data.source to world.")
        self.config, self.mesh, self.tokenizer = config, mesh, tokenizer
        self.caption_dropout = caption_dropout
        # Gives the smallest of what all processes have, from what this one has.
        self.least: Callable[[int], int] = lambda count: count
        self.empty = tokenizer([""]) if tokenizer is not None else None
        self.shares, self.own = meshes.shares(mesh), meshes.own_shares(mesh)
        self.order = _layout(config, plan, self.shares)
        shapes = ((self._shape(bucket), self._frames(bucket)) for bucket in plan.buckets)
        self.cut = {shape for shape, frames in shapes if frames < shape.frames}
        self.blocks: list[tuple[Shape, Block]] = []
        self.full = False  # whether the devices held fewer blocks than were wanted
        self.joined: list[int] = []  # the step from which each block was used
        self.failure: BaseException | None = None
        self.changed = threading.Condition()
        shared = pathlib.Path("/dev/shm")
        self.folder = tempfile.mkdtemp(
            prefix="vjax-clips-",
            dir=shared if shared.is_dir() and shutil.disk_usage(shared).free > 24e9 else None,
        )
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.pool = concurrent.futures.ProcessPoolExecutor(
            max_workers=max(1, (cores or 1) - 2),  # some are left to compile and to collect
            mp_context=multiprocessing.get_context("spawn"),
            initializer=follow_parent,
            initargs=(self.folder,),
        )
        with _as_a_host():
            pieces = [[self.pool.submit(draw, job) for job in jobs] for jobs in self._jobs()]
        self.thread = threading.Thread(target=self._collect, args=(pieces,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Ends drawing and removes what was not collected."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- What an update gets ---------------------------------------------------------------------

    def take(self, update: Update) -> list[tuple[Bucket, dict[str, Any]]]:
        """The batches of an update, on the devices; waits until there are blocks for it."""
        count = self._count(update)
        parts = []
        for number, bucket in enumerate(update.group.buckets):
            rng = np.random.default_rng((_CHOICE, self.config.seed, update.step, number))
            shape = self._shape(bucket)
            fitting = [block for found, block in self.blocks[:count] if found == shape]
            block = fitting[rng.integers(len(fitting))]
            parts.append((bucket, self._batch(bucket, block, update.stage.one_thing, rng)))
        return parts

    def abstract(self, bucket: Bucket) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a bucket's batch, for compiling ahead."""
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {}
        shapes["video"] = ((bucket.batch, self._frames(bucket), *bucket.size, 3), np.dtype("uint8"))
        if self.empty is not None:
            for name, value in zip(("ids", "mask"), self.empty, strict=True):
                shapes[name] = ((bucket.batch, value.shape[1]), value.dtype)
        sharding = meshes.split_batch(self.mesh)
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
            for name, (shape, dtype) in shapes.items()
        }

    def wait(self, update: Update) -> int:
        """How many of the blocks this host has for an update, once they are there."""
        arrivals, kinds = self.config.data.arrivals, map(self._shape, update.group.buckets)
        first = 1 + max(self.order.index(kind) for kind in kinds)

        def wanted() -> int:
            if arrivals:  # a run that is made again
                there = sum(step <= update.step for step in arrivals)
                return min(max(first, there), len(self.order))
            if self.full:
                return max(first, len(self.blocks))
            # By the clock, what there is by now is enough if the update can be made of it.
            return first if self.config.minutes is not None else len(self.order)

        with self.changed:
            self.changed.wait_for(lambda: self.failure or self.full or len(self.blocks) >= wanted())
            if self.failure is not None:
                raise self.failure
            if len(self.blocks) < wanted():
                raise ConfigError(
                    f"The device is full with {len(self.blocks)} of {len(self.order)} blocks of "
                    f"clips and this run needs {wanted()}: take a device with more memory, or set "
                    "data.resident lower."
                )
            return wanted() if arrivals or self.config.minutes is None else len(self.blocks)

    def _count(self, update: Update) -> int:
        """How many of the blocks an update uses."""
        count = self.wait(update)
        if len(self.joined) < len(self.order):  # one host may have drawn more than another
            count = self.least(count)
        self.joined += [update.step] * (count - len(self.joined))
        return count

    def _batch(
        self, bucket: Bucket, block: Block, one_thing: float, rng: np.random.Generator
    ) -> dict[str, Any]:
        share = bucket.batch // self.shares
        frames = self._frames(bucket)
        length, height, width = block.pixels.shape[2:5]
        size = (len(self.own), share)
        index = np.zeros(size, np.int32)
        for device in range(len(self.own)):
            # What a cut or a wall shows may not be in a part of the clip.
            true = np.ones_like(block.one[device]) if frames == length else ~block.whole[device]
            one, other = (np.flatnonzero(kind & true) for kind in _kinds(block.one[device]))
            wants_one = rng.uniform(size=share) < one_thing
            for place in range(share):
                choices = one if (wants_one[place] and len(one)) or not len(other) else other
                index[device, place] = choices[rng.integers(len(choices))]
        start = np.zeros((*size, 3), np.int32)  # frame, row, column
        if frames == 1:  # any frame is a picture
            start[..., 0] = rng.integers(length, size=size)
        if bucket.crop is not None:
            start[..., 1] = rng.integers(height - bucket.crop + 1, size=size)
            start[..., 2] = rng.integers(width - bucket.crop + 1, size=size)
            height = width = bucket.crop
        index_, start_ = (meshes.place(self.mesh, value) for value in (index, start))
        arrays = {"video": _pick(block.pixels, index_, start_, (frames, height, width))}
        if self.tokenizer is not None:
            first, last = (0, MOVING) if frames > 1 else (MOVING, CAPTIONS)
            is_long = rng.uniform(size=size) < self.config.data.long_captions
            caption = first + 2 * rng.integers((last - first) // 2, size=size) + is_long
            dropped = rng.uniform(size=size) < self.caption_dropout
            device = np.arange(len(self.own))[:, None]
            for name, empty in zip(("ids", "mask"), self.empty, strict=True):
                value = getattr(block, name)[device, index, caption]
                value = np.where(dropped[..., None], empty[0], value)
                value = value.reshape(len(self.own) * share, -1)
                arrays[name] = meshes.place(self.mesh, value)
        return arrays

    def _frames(self, bucket: Bucket) -> int:
        lead = bucket.lead * self.config.model.vae.temporal_ratio if bucket.lead else 0
        return bucket.frames + lead

    def _shape(self, bucket: Bucket) -> Shape:
        size = (bucket.height, bucket.width)
        return next(shape for shape in self.order if (shape.height, shape.width) == size)

    # --- Drawing ---------------------------------------------------------------------------------

    def _jobs(self) -> list[list[Job]]:
        """This host's clips of every block, in pieces."""
        config, offset, jobs = self.config, 0, []
        text = (self.tokenizer.rules, self.tokenizer.config) if self.tokenizer else None
        for shape in self.order:
            size = _block_size(config, self.order, shape, self.shares)
            each = size // self.shares
            firsts = [offset + share * each for share in self.own]
            jobs.append(
                [
                    Job(
                        seed=config.seed,
                        clips=range(at, min(at + PIECE, first + each)),
                        shape=shape,
                        fps=config.model.fps,
                        one_thing=max(stage.one_thing for stage in config.stages),
                        tokenizer=text,
                        folder=self.folder,
                    )
                    for first in firsts
                    for at in range(first, first + each, PIECE)
                ]
            )
            offset += size
        return jobs

    def _collect(self, pieces: list[list[concurrent.futures.Future]]) -> None:
        """Puts blocks on the devices as they are drawn."""
        try:
            for shape, parts in zip(self.order, pieces, strict=True):
                block = self._block(shape, [part.result() for part in parts])
                with self.changed:
                    if block is None:
                        log.info("The device is full with %d blocks of clips.", len(self.blocks))
                        self.full = True
                    else:
                        self.blocks.append((shape, block))
                    self.changed.notify_all()
                if block is None:
                    self.pool.shutdown(wait=False, cancel_futures=True)
                    return
                log.info("drew block %d of %d", len(self.blocks), len(self.order))
        except BaseException as error:
            if isinstance(error, process.BrokenProcessPool):
                error = ConfigError(
                    "A process that drew clips was killed, perhaps since memory ran out: free "
                    "some, or set data.resident lower."
                )
            with self.changed:
                self.failure = error
                self.changed.notify_all()

    def _block(self, shape: Shape, paths: list[str]) -> Block | None:
        found: dict[str, list] = {}
        for path in paths:
            with np.load(path) as arrays:
                for name in arrays.files:
                    found.setdefault(name, []).append(arrays[name])
            os.unlink(path)
        whole = {name: np.concatenate(items) for name, items in found.items()}
        whole = {n: x.reshape(len(self.own), -1, *x.shape[1:]) for n, x in whole.items()}
        if shape in self.cut and whole["whole"].all(axis=1).any():
            raise ConfigError(
                f"data.resident is {self.config.data.resident}, too few: a device got no clip of "
                f"{shape.width}x{shape.height} of which a part can be taken. Set it higher."
            )
        pixels = whole.pop("pixels")
        if not _has_room(pixels.nbytes // len(self.own)):
            return None
        pixels = meshes.place(self.mesh, pixels)
        none = np.zeros((*whole["one"].shape, 0, 0), bool)
        return Block(pixels, **{"ids": none, "mask": none, **whole})


def _layout(config: RunConfig, plan: Plan, devices: int) -> list[Shape]:
    """The shape of every block, in the order in which they are drawn: first one of each shape."""
    ratio = config.model.vae.temporal_ratio
    frames: dict[tuple[int, int], int] = {}
    taken: dict[tuple[int, int], float] = {}
    for stage in plan.stages:
        total = sum(group.share for group in stage.groups)
        for group in stage.groups:
            for bucket in group.buckets:
                size = (bucket.height, bucket.width)
                frames[size] = max(frames.get(size, 1), bucket.frames + ratio * bucket.lead)
                clips = stage.steps * group.share / total * bucket.batch
                taken[size] = taken.get(size, 0.0) + clips
    shapes = {size: Shape(frames[size], *size) for size in frames}
    blocks = []
    for size, shape in shapes.items():
        wanted = config.data.resident * taken[size] / sum(taken.values())
        count = max(1, round(wanted / _most(shape)))
        blocks += [(i / count, shape) for i in range(count)]
    if config.data.resident < devices * len(shapes):
        raise ConfigError(
            f"data.resident is {config.data.resident}, too few for {len(shapes)} sizes of clips on "
            f"{devices} devices."
        )
    return [shape for _, shape in sorted(blocks, key=lambda item: item[0])]


def _most(shape: Shape) -> int:
    """Clips in a full block."""
    return min(BLOCK, BYTES // (shape.frames * shape.height * shape.width * 3))


def _block_size(config: RunConfig, order: list[Shape], shape: Shape, devices: int) -> int:
    """Clips in each block of a shape: as many as are wanted where these fill no block."""
    most = min(_most(shape), max(config.data.resident // len(order), 1))
    return max(most // devices, 1) * devices


def _kinds(one: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return one, ~one


def _has_room(size: int) -> bool:
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return not limit or stats.get("bytes_in_use", 0) + size < (1 - SPARE) * limit


@contextlib.contextmanager
def _as_a_host():
    """Processes that start inside use no accelerator and one thread each."""
    values = {
        "JAX_PLATFORMS": "cpu",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@jax.jit(static_argnames="size")
def _pick(pixels, index, start, size):
    """Clips [B T H W 3] from a block, each device's from its own."""

    def one(block, index, start):
        begin = (index, start[0], start[1], start[2], 0)
        return lax.dynamic_slice(block, begin, (1, *size, 3))[0]

    picked = jax.vmap(jax.vmap(one, in_axes=(None, 0, 0)))(pixels, index, start)
    return rules.named(picked.reshape(-1, *picked.shape[2:]), "clips")
