"""Checkpoints: saved in the background, complete or not there, and the last good one restored."""

import logging
import pathlib
import shutil

import jax
import orbax.checkpoint as ocp

from vjax import config as configs
from vjax.config import ConfigError, RunConfig
from vjax.training.state import State

log = logging.getLogger("vjax")


class Checkpoints:
    """The checkpoints of one run, in `directory`."""

    def __init__(self, directory: pathlib.Path, config: RunConfig):
        self.config = config
        self.manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=config.keep_checkpoints, enable_async_checkpointing=True
            ),
        )

    def save(self, step: int, state: State) -> None:
        """Starts saving; training goes on while it is written."""
        self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                config=ocp.args.JsonSave(configs.to_dict(self.config)),
            ),
        )

    def restore(self, like: State) -> State | None:
        """The newest state that can be read; None where the run has no checkpoint.

        Raises:
            ConfigError: the checkpoints are of another model or optimizer.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        steps = sorted(self.manager.all_steps(), reverse=True)
        for step in steps:
            try:
                self._check(step)
                restored = self.manager.restore(
                    step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
                )
                return restored["state"]
            except ConfigError:
                raise
            except Exception as error:  # whatever a damaged file makes the readers raise
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                log.warning(
                    "Checkpoint %d is damaged (%s); trying the one before it.", step, reason
                )
                self._set_aside(step)
        if steps:
            raise ConfigError(
                f"None of the checkpoints in {self.manager.directory} can be read. Move the "
                "directory away to start again."
            )
        return None

    def _check(self, step: int) -> None:
        saved = self.manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore()))
        saved = saved["config"]
        current = configs.to_dict(self.config)
        for field in ("trains", "model", "optimizer", "seed", "data"):
            if _deciding(saved[field]) != _deciding(current[field]):
                raise ConfigError(
                    f"The run in {pathlib.Path(self.manager.directory).parent} was started with "
                    f"another {field!r} config. Choose another --run_dir or --name, or restore "
                    "the old settings."
                )

    def _set_aside(self, step: int) -> None:
        damaged = pathlib.Path(self.manager.directory) / str(step)
        aside = damaged.parent.parent / f"damaged-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.move(damaged, aside)
        self.manager.reload()

    def last(self) -> int | None:
        """The step of the newest complete checkpoint."""
        self.manager.wait_until_finished()
        return self.manager.latest_step()

    def close(self) -> None:
        """Waits until what is being saved is on disk."""
        self.manager.wait_until_finished()
        self.manager.close()


def _deciding(value):
    """A config as JSON gives it back, without what does not decide any result."""
    if isinstance(value, dict):
        indifferent = ("threads", "prefetch")
        return {key: _deciding(item) for key, item in value.items() if key not in indifferent}
    if isinstance(value, list | tuple):
        return [_deciding(item) for item in value]
    return value
