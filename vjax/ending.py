"""How a command is ended from outside: SIGTERM cleans up as Ctrl-C does, and neither is lost."""

import os
import signal
import threading
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The system asked to end."""


def heed_signals() -> None:
    """From here on, SIGTERM raises `Terminated` in the main thread, as Ctrl-C its interrupt.

    One that the parent process has said to ignore stays ignored.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def status(interrupt: KeyboardInterrupt) -> int:
    """What a process that was interrupted ends with: 143 after SIGTERM, 130 after Ctrl-C."""
    return 143 if isinstance(interrupt, Terminated) else 130


def comes_again(number: int, frame: FrameType | None) -> bool:
    """Whether what is raised at this place would be lost; then the signal comes once more.

    JAX has a callback for when memory is collected, and drops what is raised in it.
    """
    if frame is None or frame.f_code.co_name != "_xla_gc_callback":
        return False
    threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
    return True


def _end(number: int, frame: FrameType | None) -> None:
    if not comes_again(number, frame):
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
