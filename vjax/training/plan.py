"""What each update of a run is made of and how large it is: the stages of the config, unrolled."""

import dataclasses
import logging

import numpy as np

from vjax.config import Bucket, ConfigError, Group, Stage

log = logging.getLogger("vjax")


@dataclasses.dataclass(frozen=True)
class Update:
    """One update of a run."""

    step: int
    stage: Stage
    group: Group
    first_clip: int  # how many clips all the updates before it took
    restart: bool  # whether it begins from the averaged weights, with a fresh optimizer
    rate: float
    ema: float  # how much of the average stays


class Plan:
    """The updates of a run, each a pure function of its step. Says which group would never come.

    Args:
        limit: end after so many updates, although the stages have more.

    Raises:
        ConfigError: a stage that has no update, or a group without buckets or share.
    """

    def __init__(self, stages: tuple[Stage, ...], limit: int | None = None):
        self.limit = limit
        if not stages:
            raise ConfigError("A run needs at least one stage in stages.")
        self.unroll(stages)
        for number, (stage, order) in enumerate(zip(stages, self.orders, strict=True)):
            for group in sorted(set(range(len(stage.groups))) - set(order.tolist())):
                log.warning(
                    "stages.%d has %d steps, too few for its group %d: it never comes.",
                    number,
                    stage.steps,
                    group,
                )

    def unroll(self, stages: tuple[Stage, ...]) -> None:
        """Lays out the updates of these stages. Those before a change stay as they were."""
        self.stages = stages
        self.orders = [_order(stage, number) for number, stage in enumerate(stages)]
        self.ends = np.cumsum([stage.steps for stage in stages])
        taken = [
            np.array([sum(bucket.batch for bucket in group.buckets) for group in stage.groups])
            for stage in stages
        ]
        clips = [counts[order] for counts, order in zip(taken, self.orders, strict=True)]
        self._before = np.cumsum(np.concatenate([[0], *clips]))
        self._fresh: list[int] = []  # the step at which each stage's average and optimizer began
        for number, stage in enumerate(stages):
            begin = int(self.ends[number]) - stage.steps
            self._fresh.append(begin if stage.restart or not number else self._fresh[-1])

    @property
    def buckets(self) -> list[Bucket]:
        """All buckets of the run, each once, in the order of the config."""
        found = [b for stage in self.stages for group in stage.groups for b in group.buckets]
        return list(dict.fromkeys(found))

    @property
    def steps(self) -> int:
        """How many updates there are."""
        return min(int(self.ends[-1]), self.limit or int(self.ends[-1]))

    def is_over(self, done: int) -> bool:
        """Whether the run ends after `done` updates."""
        return done >= self.steps

    def stage_number(self, step: int) -> int:
        """Which stage an update belongs to."""
        return int(np.searchsorted(self.ends, step, side="right"))

    def __getitem__(self, step: int) -> Update:
        number = self.stage_number(step)
        stage = self.stages[number]
        begin = int(self.ends[number]) - stage.steps
        since = step - self._fresh[number]
        return Update(
            step=step,
            stage=stage,
            group=stage.groups[self.orders[number][step - begin]],
            first_clip=int(self._before[step]),
            restart=stage.restart and step == begin and step > 0,
            rate=learning_rate(stage, step - begin),
            # Early on the average follows quickly, so that it never remembers where it began.
            ema=min(stage.ema, (1 + since) / (10 + since)),
        )


def learning_rate(stage: Stage, step: int) -> float:
    """The rate of a stage's update `step`: a linear warm-up, a constant stretch, a linear fall."""
    fall = max(stage.warmup, int(stage.decay_from * stage.steps))
    if step < stage.warmup:
        return stage.learning_rate * (step + 1) / stage.warmup
    if step < fall:
        return stage.learning_rate
    return stage.learning_rate * (stage.steps - step) / (stage.steps - fall)


def _order(stage: Stage, number: int) -> np.ndarray:
    """Which group each update of a stage takes: every group its share, evenly spread.

    Occurrence k of a group with share s is due at (k + 1/2) / s.
    """
    if stage.steps < 1 or not stage.groups or not all(group.buckets for group in stage.groups):
        raise ConfigError(f"stages.{number} needs steps of 1 or more, and groups with buckets.")
    shares = np.array([group.share for group in stage.groups], float)
    if (shares <= 0).any():
        raise ConfigError(f"stages.{number}: the share of a group must be more than 0.")
    shares /= shares.sum()
    counts = np.ceil(shares * stage.steps).astype(int) + 1
    group = np.repeat(np.arange(len(shares)), counts)
    due = np.concatenate([(np.arange(n) + 0.5) / s for n, s in zip(counts, shares, strict=True)])
    return group[np.argsort(due, kind="stable")][: stage.steps]
