"""Drawing of many clips in one process, with several captions of each.

This file imports no JAX: a process that draws starts in a moment.
"""

import dataclasses
import multiprocessing
import os
import pathlib
import shutil
import signal
import threading
from typing import Any

import numpy as np

from vjax import world
from vjax.config import TextConfig
from vjax.tokenizer import Tokenizer

CLIP, CAPTION = 10, 11  # what randomness is for: first in every seed
CAPTIONS, MOVING = 8, 6  # of each clip; so many of them tell of motion, the rest of a picture


@dataclasses.dataclass(frozen=True)
class Shape:
    """Clips that lie in one kind of block."""

    frames: int
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Job:
    """Clips for one process to draw: those of a range of the run's clip numbers."""

    seed: int
    clips: range
    shape: Shape
    fps: float
    one_thing: float  # share
    tokenizer: tuple[str, TextConfig] | None
    folder: str


def follow_parent(folder: str) -> None:
    """Prepares a process that draws. Signals are for its parent, and it does not outlive that one.

    Args:
        folder: is removed when the parent is killed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()


def _end_with_parent(folder: str) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def draw(job: Job) -> str:
    """Draws the clips of a job; returns the file that holds them."""
    shape = job.shape
    parts: dict[str, list] = {name: [] for name in ("pixels", "ids", "mask", "one", "whole")}
    tokenizer = Tokenizer(*job.tokenizer) if job.tokenizer else None
    for number, clip in enumerate(job.clips):
        # Every block has the same share of each kind.
        one = int((number + 1) * job.one_thing) > int(number * job.one_thing)
        pixels, facts, _, _ = world.clip(
            (CLIP, job.seed, clip),
            frames=shape.frames,
            height=shape.height,
            width=shape.width,
            fps=job.fps,
            one_thing=float(one),
        )
        parts["pixels"].append(pixels)
        parts["one"].append(one)
        parts["whole"].append(len(facts.shots) > 1 or facts.shots[0].wall)
        if tokenizer is not None:
            rng = np.random.default_rng((CAPTION, job.seed, clip))
            ids, mask = tokenizer(
                [
                    world.caption(facts, rng, long=k % 2 == 1, moving=k < MOVING)
                    for k in range(CAPTIONS)
                ]
            )
            parts["ids"].append(ids)
            parts["mask"].append(mask)
    path = pathlib.Path(job.folder) / f"{job.clips.start}.npz"
    arrays: dict[str, Any] = {name: np.stack(items) for name, items in parts.items() if items}
    np.savez(path, **arrays)
    return str(path)
