"""Checkpoints: saved in the background, complete or not there, and the last good one restored.

Beside the arrays lie the checksums of their files. Only what differs from them is damaged and set
aside; whatever else keeps a checkpoint from being read ends the run and leaves the files alone.
Each process reads its share of the files, when they are written and when a run starts again: the
state of a large model is minutes of work for one host.
"""

import concurrent.futures
import functools
import hashlib
import json
import logging
import pathlib

import jax
import orbax.checkpoint as ocp

from vjax import validation
from vjax.config import ConfigError, RunConfig
from vjax.parallel.cluster import Processes
from vjax.training.resume import check_resume
from vjax.training.state import State

log = logging.getLogger("vjax")

CHECKSUMS = "checksums.json"
_PARTIAL = "checksums.{}.json"  # of what one process wrote, until they are put together
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
                async_options=ocp.AsyncOptions(
                    barrier_sync_fn=self._meet,
                    post_finalization_callback=self._write_checksums,
                ),
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

    def newest(self, processes: Processes | None = None) -> int | None:
        """The step of the newest checkpoint that is not damaged; those that are, are set aside.

        Args:
            processes: that share the directory and all call this.

        Raises:
            ConfigError: all are damaged, and the config does not say to ignore that.
            CheckpointError: a file that is there cannot be read now.
        """
        processes = processes or Processes()
        found = None
        for step in processes.first(sorted(self.manager.all_steps(), reverse=True)):
            damage = processes.wait(functools.partial(self._damage, step))
            sound, damage = processes.least([damage is None, damage or ""])
            if sound:
                found = step
                break
            aside = functools.partial(self._set_aside, step, damage)
            processes.wait(aside if processes.index == 0 else lambda: None)
        self.manager.reload()  # on all, which save together by what each believes is there
        damaged = sorted(map(str, self.directory.parent.glob("damaged-*")))
        damaged = processes.first(damaged if found is None else [])
        if damaged and not self.config.ignore_damaged:
            raise ConfigError(
                f"All checkpoints of the run in {self.directory.parent} are damaged (see "
                f"{damaged[-1]}). Give --ignore_damaged=True to start it again from step 0."
            )
        return found

    def read(self, step: int, like: State) -> State:
        """The state of a step, placed as `like` is: arrays, or their shapes with shardings.

        Raises:
            ConfigError: the run had other settings.
            CheckpointError: it cannot be read.
        """
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

    def _damage(self, step: int) -> str | None:
        checkpoint = self.directory / str(step)
        try:
            return find_damage(checkpoint, (jax.process_index(), jax.process_count()))
        except Exception as error:
            raise self._not_read(step, error) from error

    def _set_aside(self, step: int, damage: str) -> None:
        aside, number = self.directory.parent / f"damaged-{step}", 1
        while aside.exists():
            aside, number = self.directory.parent / f"damaged-{step}-{number}", number + 1
        try:
            (self.directory / str(step)).rename(aside)
        except OSError as error:
            raise self._not_read(step, error) from error
        log.warning("Checkpoint %d is damaged (%s): moved to %s.", step, damage, aside)

    def _meet(self, *, key: str, timeout_ms: int) -> None:
        """Orbax's barrier. Who comes to it in the background has written all its arrays."""
        if "async_write_complete" in key:
            index = jax.process_index()
            for directory in self.directory.glob(f"{self._saving}.*"):
                own = directory.glob(f"state*/ocdbt.process_{index}/**/*")
                sums = _checksums(directory, sorted(path for path in own if path.is_file()))
                (directory / _PARTIAL.format(index)).write_text(json.dumps(sums))
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

    def _write_checksums(self) -> None:
        """Runs on process 0 when all is written and the directory is about to get its name."""
        for directory in self.directory.glob(f"{self._saving}.*"):
            sums: dict[str, str] = {}
            for path in sorted(directory.glob(_PARTIAL.format("*"))):
                sums |= json.loads(path.read_text())
                path.unlink()
            rest = [path for path in _files(directory) if _name(path, directory) not in sums]
            sums |= _checksums(directory, rest)
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


def find_damage(checkpoint: pathlib.Path, share: tuple[int, int] = (0, 1)) -> str | None:
    """What is wrong with the files of a checkpoint; None where they are as they were written.

    Args:
        share: which part of the files to read, of how many.

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
    own = sorted(sums)[share[0] :: share[1]]
    there = {_name(path, checkpoint): path for path in _files(checkpoint)}
    for name in own:
        if name not in there:
            return f"{name} is missing"
    found = _checksums(checkpoint, [there[name] for name in own])
    for name in own:
        if found[name] != sums[name]:
            return f"{name} is not as it was written"
    return None


def _files(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for part in _PARTS for p in (directory / part).rglob("*") if p.is_file())


def _name(path: pathlib.Path, directory: pathlib.Path) -> str:
    part, *rest = path.relative_to(directory).parts
    return "/".join((part.partition(".")[0], *rest))  # without what is added while it is written


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
