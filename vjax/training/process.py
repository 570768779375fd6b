"""What a training process holds while it runs: its directory, and the signals that end it."""

import contextlib
import fcntl
import os
import pathlib
import signal
from collections.abc import Callable, Iterator

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
    """Leaves what may be broken off when a signal comes."""


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
    """Remembers SIGTERM and SIGINT, so that the step in progress ends and is saved."""

    number: int | None = None  # of the signal that came
    _breaks_off = False

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
            return int(text) if text.isdecimal() and int(text) < 256 else 0
        return 128 + self.number

    def heard(self, most: Callable[[int], int]) -> bool:
        """Whether a signal came, to this process or to another.

        Args:
            most: gives the largest of what all processes have, from what this one has.
        """
        number = most(self.number or 0)
        if number:  # one that came to this process alone meanwhile is heard next time
            self.number = number
        return bool(number)

    @contextlib.contextmanager
    def breaks_off(self) -> Iterator[None]:
        """What is done here is left with `Interrupt` when a signal comes, or came already."""
        self._breaks_off = True
        try:
            if self.requested:
                raise Interrupt
            yield
        finally:
            self._breaks_off = False

    def __enter__(self):
        signals = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if comes_again(number, frame):
            return
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            # Written at once, since a log may be in the middle of a line.
            os.write(2, b"Stopping ...\n")
        self.number = number
        if self._breaks_off:
            self._breaks_off = False
            raise Interrupt
