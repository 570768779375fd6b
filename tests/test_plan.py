"""The stages of a run unrolled: which group each update takes, its rate, and its average."""

import dataclasses

import pytest

from vjax.config import Bucket, ConfigError, Group, Stage
from vjax.training.plan import Plan, learning_rate

CLIPS = Bucket(frames=5, height=64, width=64, batch=8)
PICTURES = Bucket(frames=1, height=64, width=64, batch=24)
GROUPS = (Group((CLIPS,), share=3), Group((PICTURES, CLIPS), share=1))


def test_every_group_gets_its_share_evenly_spread():
    plan = Plan((Stage(GROUPS, steps=100),))
    order = [plan[step].group for step in range(100)]
    for start in range(0, 100, 4):
        assert sorted(order[start : start + 4].count(group) for group in GROUPS) == [1, 3]
    rare = (Group((CLIPS,), share=0.999), Group((PICTURES,), share=0.001))
    plan = Plan((Stage(rare, steps=1000),))
    assert [plan[step].group for step in range(1000)].count(rare[1]) == 1


def test_a_group_that_would_never_come_is_named(caplog):
    rare = (Group((CLIPS,), share=0.999), Group((PICTURES,), share=0.001))
    Plan((Stage(GROUPS, steps=10), Stage(rare, steps=100)))
    assert "stages.1 has 100 steps, too few for its group 1" in caplog.text
    with pytest.raises(ConfigError, match="more than 0"):
        Plan((Stage((Group((CLIPS,), share=0),), steps=10),))
    with pytest.raises(ConfigError, match="groups with buckets"):
        Plan((Stage((Group(()),), steps=10),))


def test_clips_are_counted_across_stages():
    plan = Plan((Stage(GROUPS, steps=6), Stage(GROUPS[1:], steps=3)))
    assert plan.steps == 9
    taken = 0
    for step in range(9):
        assert plan[step].first_clip == taken
        taken += sum(bucket.batch for bucket in plan[step].group.buckets)
    assert [plan[step].stage for step in (5, 6)] == list(plan.stages)


def test_the_rate_rises_stays_and_falls_to_zero():
    stage = Stage(GROUPS, steps=100, learning_rate=2.0, warmup=4, decay_from=0.6)
    rates = [learning_rate(stage, step) for step in range(100)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[59] == rates[60] == 2.0
    assert rates[80] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(2.0 / 40)
    for other in (
        dataclasses.replace(stage, steps=2),
        dataclasses.replace(stage, decay_from=0.0),
        dataclasses.replace(stage, warmup=0, decay_from=1.0),
    ):
        found = [learning_rate(other, step) for step in range(other.steps)]
        assert max(found) <= 2.0
        assert min(found) > 0


def test_a_stage_goes_on_or_starts_from_the_average():
    stage = Stage(GROUPS, steps=50, ema=0.8)
    plan = Plan((stage, stage, dataclasses.replace(stage, restart=True)))
    assert [step for step in range(150) if plan[step].restart] == [100]
    assert plan[0].ema == plan[100].ema == 0.1
    assert plan[50].ema == plan[80].ema == 0.8  # the average has long begun
    assert not Plan((dataclasses.replace(stage, restart=True),))[0].restart
