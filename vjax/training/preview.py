"""What a run shows of itself while it trains, as its task makes it."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vjax import models, weights
from vjax import video as media
from vjax.tokenizer import Tokenizer
from vjax.training.figures import Figures
from vjax.training.task import Task


def make(
    task: Task, params: models.Params, tokenizer: Tokenizer | None
) -> tuple[UInt8[np.ndarray, "T H W 3"] | None, dict[str, Any]]:
    """A video of what parameters do, and figures.

    All processes make it, with parameters that stay where they lie on the mesh of the run.
    """
    return task.preview(weights.Bundle(task.config.model, params, tokenizer))


def write(
    task: Task,
    run_dir: pathlib.Path,
    step: int,
    figures: Figures,
    video: UInt8[np.ndarray, "T H W 3"] | None,
    values: dict[str, Any],
) -> None:
    """Writes a preview: its video to a file, its figures to TensorBoard."""
    figures.write(values, step)
    if video is not None:
        path = run_dir / "samples" / f"{step:07d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        media.write(path, video, task.config.model.fps, overwrite=True)
