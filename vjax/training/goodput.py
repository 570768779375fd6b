"""Where the time of a run went, over all its starts: what share of it made steps that count.

It is kept in a file of the run, since only that knows of starts that were killed. The time between
two starts is not counted, nor what a killed one did after it last wrote the file.
"""

import contextlib
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterator

log = logging.getLogger("vjax")

KINDS = {
    "steps": "steps",
    "start": "start-up and compiling",
    "data": "waiting for data",
    "checkpoint": "checkpoints",
    "preview": "previews and bundles",
    "lost": "steps made again",
}
SECONDS = 10.0  # at least, from one writing of the file to the next
LONGEST = 1e10  # seconds that a run can have taken


class Goodput:
    """The seconds of a run by what they went into; the host's, while devices may be at work.

    Args:
        path: of the file; None where another process keeps it.
        began: when this start of the run began, by `time.monotonic`.
    """

    def __init__(self, path: pathlib.Path | None, began: float):
        self.path, self.kind, self.clock, self.written = path, "start", began, 0.0
        self.seconds, self.step = _read(path)

    def begin(self, step: int) -> None:
        """Notes the step at which the run starts or goes on; those it had made beyond are lost."""
        if self.step > step:
            lost = self.seconds["steps"] * (self.step - step) / self.step
            self.seconds["steps"] -= lost
            self.seconds["lost"] += lost
        self.step = step

    def switch(self, kind: str) -> str:
        """From here on, time goes into something else. Returns what it went into."""
        now, before = time.monotonic(), self.kind
        self.seconds[before] += now - self.clock
        self.clock, self.kind = now, kind
        return before

    @contextlib.contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """What is done inside goes into another kind."""
        before = self.switch(kind)
        try:
            yield
        finally:
            self.switch(before)

    def shares(self) -> dict[str, float]:
        """The share of each kind, by name."""
        self.switch(self.kind)
        total = sum(self.seconds.values()) or 1.0
        return {kind: seconds / total for kind, seconds in self.seconds.items()}

    def note(self, step: int, now: bool = False) -> None:
        """Writes down what there is after so many steps, if it is time to."""
        self.switch(self.kind)
        self.step = step
        if self.path is None or (self.clock - self.written < SECONDS and not now):
            return
        self.written = self.clock
        work = self.path.with_suffix(".new")
        try:
            work.write_text(json.dumps({"step": step, "seconds": self.seconds}))
            os.replace(work, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                work.unlink(missing_ok=True)
            log.warning("%s cannot be written: %s", self.path, error)

    def __str__(self) -> str:
        shares = self.shares()
        total = sum(self.seconds.values())
        parts = [f"{KINDS[kind]} {shares[kind]:.1%}" for kind in KINDS if shares[kind] >= 5e-4]
        return f"of {_duration(total)}: {', '.join(parts)}"


def _read(path: pathlib.Path | None) -> tuple[dict[str, float], int]:
    seconds = dict.fromkeys(KINDS, 0.0)
    # Whatever is wrong with it, a run does not end for its accounts.
    with contextlib.suppress(
        OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError
    ):
        if path is not None:
            found = json.loads(path.read_text())
            kept = {kind: float(found["seconds"].get(kind, 0.0)) for kind in KINDS}
            step = int(found["step"])
            if step >= 0 and all(0 <= value < LONGEST for value in kept.values()):
                return kept, step
    return seconds, 0


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
