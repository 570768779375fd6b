"""A run that ends by the clock: its stages get their steps, and their falls begin, while it runs.

What was decided is a list of ordinary stages in the end, which repeats the run by steps.
"""

import collections
import dataclasses
import time
from collections.abc import Callable

import numpy as np

from vjax.config import Stage
from vjax.training.plan import Plan

OPEN = 2**20  # steps of a stage whose end is not decided yet
RESERVE = 20.0  # seconds for the last checkpoint and the bundle, at most half of all
MARGIN = 0.97  # what is planned for, of the time that is left


class TimedPlan(Plan):
    """The updates of a run of so many seconds. Stages share them as they share their steps.

    Args:
        began: when the seconds began, by `time.monotonic`.
        agreed: gives the time that counts on all processes, from that of this one.
    """

    def __init__(
        self,
        stages: tuple[Stage, ...],
        limit: int | None,
        seconds: float,
        began: float,
        agreed: Callable[[float], float] = lambda now: now,
    ):
        self.agreed = agreed
        shares = np.cumsum([stage.steps for stage in stages])
        seconds -= min(RESERVE, seconds / 2)
        self.deadlines = [began + seconds * float(share / shares[-1]) for share in shares]
        self.entered = began  # when the stage in hand began
        self.decided = 0  # stages whose steps are known
        self.recent: collections.deque[float] = collections.deque(maxlen=50)
        super().__init__(tuple(dataclasses.replace(s, steps=OPEN) for s in stages), limit)

    def is_over(self, done: int) -> bool:
        """Whether the run ends after `done` updates; decides what the clock says is due."""
        now = self.agreed(time.monotonic())
        self.recent.append(now)
        number = self.stage_number(done - 1)
        stage = self.stages[number]
        here = done - (int(self.ends[number]) - stage.steps)
        late = now >= self.deadlines[-1]
        fall = (1 - stage.decay_from) * (self.deadlines[number] - self.entered)
        if number == self.decided and (late or now >= self.deadlines[number] - fall):
            left = 0
            if fall and not late:
                seconds = MARGIN * max(self.deadlines[number] - now, 0.0)
                left = max(1, int(seconds / self._seconds_per_update()))
            # The fall begins at a share of the steps that is rounded down: half a step keeps it.
            decay_from = min(1.0, (here + 0.5) / (here + left))
            stage = dataclasses.replace(stage, steps=here + left, decay_from=decay_from)
            self.unroll((*self.stages[:number], stage, *self.stages[number + 1 :]))
            self.decided += 1
        if late:  # the stages after this one are left out
            self.unroll(self.stages[: number + 1])
        if here == stage.steps:
            self.entered = now
        return late or super().is_over(done)

    def _seconds_per_update(self) -> float:
        """Of recent updates, without those that compiled."""
        seconds = np.diff(np.array(self.recent))
        if not len(seconds):
            return 1.0
        return float(seconds[seconds <= 5 * np.median(seconds)].mean())
