"""What a training process holds while it runs: its directory, and the signals that end it."""

import contextlib
import fcntl
import os
import pathlib
import re
import signal
import types
from collections.abc import Iterator, Mapping
from typing import Any

from vjax.config import ConfigError
from vjax.ending import comes_again

PREEMPTED = "VJAX_PREEMPTED_STATUS"  # the variable that says what to end with then


class Stopped(Exception):
    """A signal ended the run before its last step.

    Args:
        status: what the process should end with.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class Interrupt(BaseException):
    """A signal came, and what was waited for is left."""


@contextlib.contextmanager
def alone_in(directory: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from training in a directory, until this one leaves it or dies.

    Raises:
        ConfigError: another process trains there.
    """
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"Process {file.read().strip() or 'unknown'} trains in {directory} already: wait "
                "for it, stop it, or choose another --name or --run_dir."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


class StopSignal:
    """Remembers SIGTERM and SIGINT, so that what is in hand ends and is saved."""

    number: int | None = None  # of the signal that came, to this process or to another
    _interrupted = False  # by Ctrl-C here
    _before: Mapping[int, Any] = types.MappingProxyType({})  # what signals were handled by

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self.number is not None

    def status(self, saved: bool) -> int:
        """What a process that a signal ended ends with.

        SIGTERM is how a preemption is told, and so how a run goes on elsewhere: 0, or what
        VJAX_PREEMPTED_STATUS says, by which a script that starts it again knows that it has not
        ended. 130 after Ctrl-C, as everywhere.

        Args:
            saved: whether the same command goes on from where it stopped; 143 if not.
        """
        if self.number == signal.SIGTERM and saved:
            text = os.environ.get(PREEMPTED, "")
            return int(text) if re.fullmatch("[0-9]{1,3}", text) and int(text) < 256 else 0
        return 128 + (self.number or 0)

    def come(self, *numbers: int) -> None:
        """Takes note of signals that came to another process of the run."""
        for number in numbers:
            if not self.requested:
                self.number = number

    def listen(self) -> None:
        """Signals come here from now on, where they did before."""
        for number in self._before:
            signal.signal(number, self._note)

    def __enter__(self):
        signals = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.getsignal(number) for number in signals}
        self.listen()
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number, frame):
        if comes_again(number, frame):
            return
        if number == signal.SIGINT:
            if self._interrupted:  # that is not what was meant the first time
                raise KeyboardInterrupt
            self._interrupted = True
        if not self.requested:
            # Written at once, since a log may be in the middle of a line.
            os.write(2, b"Stopping ...\n")
            self.number = number
