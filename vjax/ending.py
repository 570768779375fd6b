"""How a command is ended from outside: SIGTERM cleans up as Ctrl-C does, and neither is lost."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """The system asked to end."""


def heed_signals() -> None:
    """From here on, SIGTERM raises `Terminated` in the main thread, as Ctrl-C its interrupt.

    So does SIGHUP, of a terminal that is closed.

    One that the parent process has said to ignore stays ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    sys.unraisablehook = _unraised


def status(interrupt: KeyboardInterrupt) -> int:
    """What a process that was interrupted ends with: 143 after SIGTERM, 130 after Ctrl-C."""
    return 143 if isinstance(interrupt, Terminated) else 130


def comes_again(number: int, frame: FrameType | None) -> bool:
    """Whether what is raised at this place would be lost; then the signal comes once more.

    JAX has a callback for when memory is collected, and drops what is raised in it.
    """
    if frame is None or frame.f_code.co_name != "_xla_gc_callback":
        return False
    _again(number)
    return True


def _again(number: int) -> None:
    threading.Timer(0.01, os.kill, (os.getpid(), number)).start()


def _unraised(lost: Any) -> None:
    """Nor does an interrupt get lost where Python drops what is raised, as in `__del__`."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        _again(signal.SIGTERM if issubclass(lost.exc_type, Terminated) else signal.SIGINT)
    else:
        sys.__unraisablehook__(lost)


def _end(number: int, frame: FrameType | None) -> None:
    if not comes_again(number, frame):
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated
