"""The speed of a run is that of its own shapes."""

import jax
import pytest
import tiny

from vjax.config import Bucket, Group, RunConfig, Stage
from vjax.models import flops
from vjax.training import meter
from vjax.training.plan import Plan
from vjax.training.task import Task

PICTURE, CLIP = Bucket(1, 32, 32, batch=6), Bucket(5, 32, 32, batch=2)
COUNTED = {PICTURE: 6 * 10**12, CLIP: 30 * 10**12}


class Counted(Task):
    """A run that only counts."""

    def flops(self, bucket: Bucket) -> int:
        return COUNTED[bucket]


def finish(monkeypatch, groups, dtype="bfloat16", kind="TPU v5 lite"):
    """The last entry of updates on these groups, each of which takes two seconds."""
    now = iter(range(0, 100, 2))
    monkeypatch.setattr(meter.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(meter, "peak", lambda _: flops.peak(kind))
    stages = tuple(Stage((group,), steps=1) for group in groups)
    plan = Plan(stages)
    found = meter.Meter(Counted(RunConfig("run", "dit", tiny.MODEL, stages, dtype=dtype)), plan)
    for step in range(len(groups)):
        if found.is_new(plan[step]):
            found.begin(plan[step])
        entry = found.finish(plan[step], {})
    return entry


def test_each_shape_counts_with_its_own_flops(monkeypatch):
    small, both = Group((PICTURE,)), Group((PICTURE, CLIP))
    # The first update of a group compiles, and says nothing.
    entry = finish(monkeypatch, [small, small])
    assert entry["model_gflops_per_second"] == pytest.approx(6e12 / 2 / 1e9)
    assert entry["mfu"] == pytest.approx(6e12 / 2 / (197e12 * jax.device_count()))
    entry = finish(monkeypatch, [small, both, small, both])
    counted = 0.95 * 6e12 + 0.05 * 36e12
    assert entry["model_gflops_per_second"] == pytest.approx(counted / 2 / 1e9)
    assert entry["mfu"] == pytest.approx(counted / 2 / (197e12 * jax.device_count()))


@pytest.mark.parametrize(("kind", "dtype"), [("cpu", "bfloat16"), ("TPU v5 lite", "float32")])
def test_a_device_whose_peak_is_not_known_has_no_mfu(kind, dtype, monkeypatch):
    entry = finish(monkeypatch, [Group((CLIP,))] * 2, dtype, kind)
    assert entry["model_gflops_per_second"] > 0
    assert "mfu" not in entry
