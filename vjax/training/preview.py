"""What a run shows of itself while it trains, as its task makes it."""

import pathlib

from vjax import video as media
from vjax import weights
from vjax.training.task import Task


def write(task: Task, bundle: pathlib.Path, directory: pathlib.Path, step: int, writer) -> None:
    """Writes one video of the bundle's results to `directory` and figures to TensorBoard."""
    video, figures = task.preview(weights.load(str(bundle)))
    for name, value in figures.items():
        writer.add_scalar(name, value, step)
    if video is not None:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{step:07d}.mp4"
        media.write(path, video, task.config.model.fps, overwrite=True)
