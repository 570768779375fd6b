"""Watching a loop that runs on the device: a progress bar, a hook per step, and a way to stop.

The loop's executable takes the bounds of the steps to make, and `run` calls it piece by piece. A
piece is one step, or as many as fit in a tenth of a second where steps are that short, so that the
device hardly ever waits for the host and Ctrl-C is heard within one step or that tenth.
"""

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


class Cancelled(Exception):
    """The caller's `on_step` asked to stop."""


def run(
    advance: Callable[[Any, np.ndarray, np.ndarray], Any],
    state: Any,
    steps: int,
    *,
    description: str = "sampling",
    on_step: Callable[[int], bool | None] | None = None,
    console: Console | None = None,
) -> Any:
    """The state after `steps` steps of a jitted `advance(state, begin, end)`, which may donate it.

    On a terminal a bar with the time left is drawn to stderr, elsewhere nothing. `on_step` hears
    the number of finished steps after each of them, and stops the run by returning True: `run` then
    raises `Cancelled`. Ctrl-C raises KeyboardInterrupt as it always does, once the running piece is
    done. In a run of several processes every piece is one step, so that all make the same calls,
    and all must answer `on_step` alike.
    """
    console = console or Console(stderr=True)
    one_at_a_time = on_step is not None or jax.process_count() > 1
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task(description, total=steps)
        done, piece = 0, 1
        while done < steps:
            end = min(done + piece, steps)
            began = time.perf_counter()
            state = jax.block_until_ready(
                advance(state, np.asarray(done, np.int32), np.asarray(end, np.int32))
            )
            seconds = (time.perf_counter() - began) / (end - done)
            done = end
            bar.update(task, completed=done)
            if on_step is not None and on_step(done):
                raise Cancelled(f"Stopped after {done} of {steps} steps.")
            if not one_at_a_time:
                piece = max(1, int(SECONDS_PER_PIECE / seconds))
    return state
