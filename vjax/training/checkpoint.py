"""Checkpoints: saved in the background, complete or not there, and the last good one restored.

Beside the arrays lie the checksums of their files. Only what differs from them is damaged and set
aside; whatever else keeps a checkpoint from being read ends the run and leaves the files alone.
"""

import concurrent.futures
import hashlib
import json
import logging
import pathlib

import jax
import orbax.checkpoint as ocp

from vjax import validation
from vjax.config import ConfigError, RunConfig
from vjax.training.resume import check_resume
from vjax.training.state import State

log = logging.getLogger("vjax")

CHECKSUMS = "checksums.json"
_PARTS = ("state", "config")


class CheckpointError(RuntimeError):
    """A checkpoint could not be read or written; the message says why."""


class Checkpoints:
    """The checkpoints of one run, in `directory`.

    Args:
        inputs: what the run takes from elsewhere, by content (`vjax.training.resume.inputs`).
    """

    def __init__(
        self, directory: pathlib.Path, config: RunConfig, inputs: dict[str, str] | None = None
    ):
        self.directory, self.config, self.inputs = directory.absolute(), config, inputs or {}
        self._saving: int | None = None
        self.manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=config.keep_checkpoints,
                cleanup_tmp_directories=True,  # of a process that was killed while it saved
                enable_async_checkpointing=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
            ),
        )

    def save(self, step: int, state: State) -> None:
        """Starts saving; training goes on while it is written.

        Raises:
            CheckpointError: the checkpoint before this one could not be written.
        """
        self.wait()
        self._saving = step
        saved = {**validation.to_dict(self.config), "inputs": self.inputs}
        try:
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(saved)
                ),
            )
        except Exception as error:
            raise self._not_saved(error) from error

    def wait(self) -> None:
        """Returns when what is being saved is on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        try:
            self.manager.wait_until_finished()
        except Exception as error:
            raise self._not_saved(error) from error

    def restore(self, like: State) -> State | None:
        """The newest state that is not damaged, see `newest` and `read`; None without one."""
        step = self.newest()
        return None if step is None else self.read(step, like)

    def newest(self) -> int | None:
        """The step of the newest checkpoint that is not damaged; those that are, are set aside.

        One process does this for all that share the directory.

        Raises:
            ConfigError: all are damaged, and the config does not say to ignore that.
            CheckpointError: a file that is there cannot be read now.
        """
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                damage = find_damage(self.directory / str(step))
                if damage is None:
                    return step
                aside = self._set_aside(step)
            except Exception as error:
                raise self._not_read(step, error) from error
            log.warning("Checkpoint %d is damaged (%s): moved to %s.", step, damage, aside)
        aside = sorted(self.directory.parent.glob("damaged-*"))
        if aside and not self.config.ignore_damaged:
            raise ConfigError(
                f"All checkpoints of the run in {self.directory.parent} are damaged (see "
                f"{aside[-1]}). Give --ignore_damaged=True to start it again from step 0."
            )
        return None

    def read(self, step: int, like: State) -> State:
        """The state of a step, placed as `like` is: arrays, or their shapes with shardings.

        Raises:
            ConfigError: the run had other settings.
            CheckpointError: it cannot be read.
        """
        self.manager.reload()  # another process may have set some aside
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        try:
            return self._read(step, abstract)
        except ConfigError:
            raise
        except Exception as error:
            raise self._not_read(step, error) from error

    def _read(self, step: int, abstract: State) -> State:
        read = ocp.args.Composite(config=ocp.args.JsonRestore())
        saved = self.manager.restore(step, args=read)["config"]
        check_resume(self.config, self.inputs, saved, str(self.directory.parent))
        read = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        return self.manager.restore(step, args=read)["state"]

    def _set_aside(self, step: int) -> pathlib.Path:
        aside, number = self.directory.parent / f"damaged-{step}", 1
        while aside.exists():
            aside, number = self.directory.parent / f"damaged-{step}-{number}", number + 1
        (self.directory / str(step)).rename(aside)
        self.manager.reload()
        return aside

    def _write_checksums(self) -> None:
        """Runs in the background when all is written and the directory is about to get its name."""
        if jax.process_index():
            return
        for directory in self.directory.glob(f"{self._saving}.*"):
            sums = _checksums(directory, _files(directory))
            (directory / CHECKSUMS).write_text(json.dumps(sums, indent=0))

    def _not_read(self, step: int, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"Checkpoint {step} in {self.directory} could not be read: {_reason(error)}. "
            "Nothing was changed: start again once the cause is gone, or move that "
            "checkpoint away to go on from the one before it."
        )

    def _not_saved(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"Checkpoint {self._saving} could not be saved in {self.directory}: {_reason(error)}."
        )

    def last(self) -> int | None:
        """The step of the newest complete checkpoint."""
        self.wait()
        return self.manager.latest_step()

    def close(self) -> None:
        """Waits until what is being saved is on disk."""
        self.wait()
        self.manager.close()


def find_damage(checkpoint: pathlib.Path) -> str | None:
    """What is wrong with the files of a checkpoint; None where they are as they were written.

    Raises:
        OSError: a file that is there cannot be read now.
    """
    for part in _PARTS:
        if not (checkpoint / part).is_dir():
            return f"{part} is missing"
    try:
        sums = json.loads((checkpoint / CHECKSUMS).read_text())
    except FileNotFoundError:
        return None  # it is from before there were checksums
    except (ValueError, RecursionError):
        sums = None
    if not isinstance(sums, dict):
        return f"{CHECKSUMS} is broken"
    found = _checksums(checkpoint, [p for p in _files(checkpoint) if _name(p, checkpoint) in sums])
    for name, expected in sums.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != expected:
            return f"{name} is not as it was written"
    return None


def _files(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for part in _PARTS for p in (directory / part).rglob("*") if p.is_file())


def _name(path: pathlib.Path, directory: pathlib.Path) -> str:
    return str(path.relative_to(directory))


def _checksums(directory: pathlib.Path, paths: list[pathlib.Path]) -> dict[str, str]:
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing and reading hold no lock
        return dict(
            zip((_name(p, directory) for p in paths), pool.map(_checksum, paths), strict=True)
        )


def _checksum(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return (
        f"{type(error).__name__}: {lines[0][:300].rstrip('.')}" if lines else type(error).__name__
    )
