"""What a run shows of itself while it trains, as its task makes it."""

import pathlib

from vjax import video as media
from vjax import weights
from vjax.training.figures import Figures
from vjax.training.task import Task


def write(task: Task, run_dir: pathlib.Path, step: int, figures: Figures) -> None:
    """Writes one video of the results of the run's bundle, and figures to TensorBoard."""
    video, values = task.preview(weights.load(str(run_dir / "bundle")))
    figures.write(values, step)
    if video is not None:
        path = run_dir / "samples" / f"{step:07d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        media.write(path, video, task.config.model.fps, overwrite=True)
