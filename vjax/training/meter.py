"""How fast a run is: speed, model FLOP/s and waiting for data, averaged over recent updates."""

import logging
import time

import jax
import numpy as np
import psutil

from vjax.config import Group
from vjax.models.flops import peak
from vjax.training.plan import Plan, Update
from vjax.training.task import Task

log = logging.getLogger("vjax")


class Meter:
    """Turns metrics of finished steps into figures, with memory, speed and the share of waiting."""

    def __init__(self, task: Task, plan: Plan):
        self.task, self.plan = task, plan
        self.clock = time.perf_counter()
        self.waited = 0.0
        self.speed: np.ndarray | None = None
        device = jax.devices()[0].device_kind
        self.peak = peak(device) if task.dtype == np.dtype("bfloat16") else None
        self.began: dict[Group, int] = {}  # the step at which each group was compiled

    def is_new(self, update: Update) -> bool:
        """Whether a group comes for the first time."""
        return update.group not in self.began

    def begin(self, update: Update) -> None:
        """Takes note of a new group, and says why that takes long."""
        self.began[update.group] = update.step
        shapes = (f"{b.batch} x {b.frames}x{b.height}x{b.width}" for b in update.group.buckets)
        log.info("step %d  compiling %s …", update.step + 1, ", ".join(shapes))

    def waiting(self):
        return _Stopwatch(self)

    def pause(self):
        """Leaves what happened since the last step out of the speed."""
        self.clock, self.waited = time.perf_counter(), 0.0

    def finish(self, update: Update, metrics: dict) -> dict:
        """Waits for one update's metrics and adds its speed, averaged over recent ones."""
        group = update.group
        entry = {"step": update.step, **{name: float(value) for name, value in metrics.items()}}
        entry["learning_rate"] = update.rate
        entry["host_gb"] = psutil.Process().memory_info().rss / 1e9
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        clips = sum(bucket.batch for bucket in group.buckets)
        flops = sum(self.task.flops(bucket) for bucket in group.buckets)
        sample = np.array([seconds, clips, flops, min(self.waited, seconds)])
        self.waited = 0.0
        if update.step != self.began[group]:  # where a group is compiled says nothing of speed
            self.speed = sample if self.speed is None else 0.95 * self.speed + 0.05 * sample
        if self.speed is None:
            return entry
        seconds, clips, flops, waited = self.speed
        entry["clips_per_second"] = clips / seconds
        entry["model_gflops_per_second"] = flops / seconds / 1e9
        if self.peak is not None:
            entry["mfu"] = flops / seconds / (self.peak * jax.device_count())
        entry["data_wait"] = waited / seconds
        if self.task.config.minutes is None:
            entry["hours_left"] = (self.plan.steps - update.step - 1) * seconds / 3600
        return entry


class _Stopwatch:
    def __init__(self, meter: Meter):
        self.meter = meter

    def __enter__(self):
        self.began = time.perf_counter()

    def __exit__(self, *_):
        self.meter.waited += time.perf_counter() - self.began
