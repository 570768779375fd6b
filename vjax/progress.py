"""Watching loops that run on the device: a progress bar, a hook per step, and a way to stop.

The loop's executable takes the bounds of the steps to make, and `Steps.run` calls it piece by
piece. A piece is one step, or as many as fit in a tenth of a second where steps are that short, so
that the device hardly ever waits for the host and Ctrl-C is heard within one step or that tenth.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_PER_PIECE = 0.1
SECONDS_TO_COMPILE = 5.0  # without a step, after which it is said why
SECONDS_TO_SAY = 5.0  # from line to line, at least, where no bar can be drawn


class Cancelled(Exception):
    """The caller's `on_step` asked to stop.

    `finished` are the variations that were whole by then, stacked; None: one video was asked for.
    """

    finished: np.ndarray | None = None


def bar(console: Console, *, quiet: bool = False, transient: bool = False) -> Progress:
    """A bar with the time left, drawn on a terminal only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
        transient=transient,
    )


class Steps:
    """The steps of one request, counted over all of its loops; a context manager.

    On the terminal of the first process a bar with the time left is drawn to stderr, unless
    `quiet`. Where stderr is no terminal, a run that takes long says there how far it is, in a few
    lines. `on_step` hears the number of finished steps after each of them, and stops the run by
    returning True: `run` then raises `Cancelled`. Ctrl-C raises KeyboardInterrupt as it always
    does, once the running piece is done. In a run of several processes every piece is one step, so
    that all make the same calls, and all must answer `on_step` alike.
    """

    def __init__(
        self,
        total: int,
        *,
        description: str = "sampling",
        on_step: Callable[[int], bool | None] | None = None,
        console: Console | None = None,
        quiet: bool = False,
    ):
        console = console or Console(stderr=True)
        self.total, self.done, self._on_step = total, 0, on_step
        self._one_at_a_time = on_step is not None or jax.process_count() > 1
        self._piece = 1
        quiet = quiet or jax.process_index() > 0
        self._bar = bar(console, quiet=quiet, transient=True)
        self._task = self._bar.add_task(description, total=total)
        self._console, self._quiet, self._what = console, quiet, description
        self._compiling = threading.Timer(SECONDS_TO_COMPILE, self._say_compiling)
        self._compiling.daemon = True
        self._said = time.perf_counter()

    def __enter__(self) -> "Steps":
        self._bar.start()
        if not self._quiet:
            self._compiling.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._compiling.cancel()
        self._bar.stop()

    def _say_compiling(self) -> None:
        if not self.done:
            self._say("compiling, once for each shape …")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def _tell(self, before: int) -> None:
        """How far it is, where no bar says so: at most each tenth, and seldom."""
        self._bar.update(self._task, completed=self.done)
        if self._quiet or self._console.is_terminal:
            return
        now = time.perf_counter()
        tenth = 10 * self.done // self.total > 10 * before // self.total
        if tenth and self.done < self.total and now - self._said >= SECONDS_TO_SAY:
            self._said = now
            self._say(f"{self._what}: {self.done} of {self.total} steps")

    def run(
        self, advance: Callable[[Any, np.ndarray, np.ndarray], Any], state: Any, steps: int
    ) -> Any:
        """The state after `steps` more steps of a jitted `advance(state, begin, end)`.

        It may donate the state.
        """
        begin = 0
        while begin < steps:
            end = min(begin + self._piece, steps)
            began = time.perf_counter()
            state = jax.block_until_ready(
                advance(state, np.asarray(begin, np.int32), np.asarray(end, np.int32))
            )
            seconds = (time.perf_counter() - began) / (end - begin)
            self.done += end - begin
            start, begin = begin, end
            self._compiling.cancel()
            self._tell(self.done - (end - start))
            if self._on_step is not None and self._on_step(self.done):
                raise Cancelled(f"Stopped after {self.done} of {self.total} steps.")
            if not self._one_at_a_time:
                self._piece = max(1, int(SECONDS_PER_PIECE / seconds))
        return state
