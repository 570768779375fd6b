"""How a command is ended from outside: SIGTERM cleans up as Ctrl-C does."""

import signal


class Terminated(KeyboardInterrupt):
    """The system asked to end."""


def heed_terminate() -> None:
    """From here on, SIGTERM raises `Terminated` in the main thread."""
    signal.signal(signal.SIGTERM, _terminate)


def status(interrupt: KeyboardInterrupt) -> int:
    """What a process that was interrupted ends with: 143 after SIGTERM, 130 after Ctrl-C."""
    return 143 if isinstance(interrupt, Terminated) else 130


def _terminate(*_: object) -> None:
    raise Terminated
