"""Processes of their own that import nothing: each is a fork of one that has imported all."""

import atexit
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Mapping

import pytest

TESTS = pathlib.Path(__file__).parent

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tensorboardX", "test_cluster", "test_sample", "vjax.pipeline"])


class Forked:
    """A process that calls `run`, which it imports; what it says lies in two files."""

    def __init__(
        self, directory: pathlib.Path, environment: Mapping[str, str], run: Callable, *arguments
    ):
        number = len(list(directory.glob("*.out")))
        self._said = [directory / f"{number}.{end}" for end in ("out", "err")]
        for path in self._said:
            path.touch()
        self._process = _CONTEXT.Process(
            target=_begin,
            args=(self._said, os.getcwd(), {**os.environ, **environment}, run, *arguments),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", f"{TESTS.parent}{os.pathsep}{TESTS}")
            self._process.start()

    @property
    def said(self) -> tuple[str, str]:
        """What it has said so far, on stdout and on stderr."""
        out, err = (path.read_text() for path in self._said)
        return out, err

    def await_said(self, text: str) -> None:
        """Returns when it has said it."""
        while text not in "".join(self.said):
            assert self._process.is_alive(), self.said
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def status(self, seconds: float = 300) -> int:
        """How it ended, for which it has so long."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, self.said
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _begin(said, place, environment, run, *arguments) -> None:
    os.chdir(place)
    os.environ.update(environment)
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    try:
        run(*arguments)
    finally:
        atexit._run_exitfuncs()  # as at the end of any process but a fork
