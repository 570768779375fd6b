"""Runs that end by the clock: when falls begin, and the config that repeats them by steps."""

import dataclasses
import functools
import itertools
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vjax import train as trainer
from vjax import validation
from vjax.config import Bucket, ConfigError, DataConfig, Group, RunConfig, Stage
from vjax.models.vae import to_float
from vjax.parallel import mesh as meshes
from vjax.training import minutes, start
from vjax.training.checkpoint import Checkpoints
from vjax.training.minutes import TimedPlan
from vjax.training.plan import Plan
from vjax.training.vae import VAETask

BUCKET = Bucket(frames=5, height=32, width=32, batch=8)
SMALL = Bucket(frames=1, height=32, width=32, batch=8)
GROUPS = (Group((BUCKET, SMALL), share=2), Group((SMALL,)))
STAGE = Stage(GROUPS, steps=100, learning_rate=1.0, warmup=3, decay_from=0.5)


def play(monkeypatch, stages, seconds: float, lengths) -> tuple[TimedPlan, list[float], list[bool]]:
    """Runs a plan against a clock whose updates take the given seconds."""
    now = [0.0]
    monkeypatch.setattr(minutes.time, "monotonic", lambda: now[0])
    plan = TimedPlan(stages, None, seconds, 0.0)
    rates, restarts, over = [], [], False
    while not over:
        update = plan[len(rates)]
        rates.append(update.rate)
        restarts.append(update.restart)
        now[0] += lengths(len(rates))
        over = plan.is_over(len(rates))
    return plan, rates, restarts


def test_the_rate_falls_to_its_end_in_time_and_can_be_repeated_by_steps(monkeypatch):
    first = dataclasses.replace(STAGE, decay_from=1.0)
    second = dataclasses.replace(STAGE, steps=300, restart=True)
    # 400 seconds without the reserve: 100 for the first stage, 150 and 150 for the second.
    plan, rates, restarts = play(monkeypatch, (first, second), 420, lambda _: 1.0)
    assert [stage.steps for stage in plan.stages] == [100, 295]
    assert [step for step, new in enumerate(restarts) if new] == [100]
    assert rates[103:250] == [1.0] * 147
    assert rates[-1] == pytest.approx(1 / 145)
    again = Plan(plan.stages)
    assert again.steps == len(rates)
    assert [again[step].rate for step in range(again.steps)] == rates
    assert [again[step].group for step in range(9)] == [plan[step].group for step in range(9)]


def test_a_run_that_gets_slower_ends_in_time_all_the_same(monkeypatch):
    plan, rates, _ = play(monkeypatch, (STAGE,), 120, lambda n: 1.0 if n < 60 else 5.0)
    assert len(rates) < plan.steps  # the fall did not reach its end
    again = Plan(plan.stages)
    assert [again[step].rate for step in range(len(rates))] == rates
    plan, rates, _ = play(monkeypatch, (STAGE, STAGE), 120, lambda _: 40.0)
    assert len(rates) == 3
    (only,) = plan.stages  # there was no time for the other
    assert [Plan((only,))[step].rate for step in range(3)] == rates


class Brightness(VAETask):
    """A loss that compiles in no time and gives its parameters a gradient."""

    def loss(self, bucket, params, batch, key):
        means = to_float(batch["video"]).mean(axis=(1, 2, 3, 4))
        bias = params["vae"]["encoder"]["conv_in"]["bias"].sum()
        return jnp.mean((bias - means + 0.1 * jax.random.normal(key, means.shape)) ** 2), {}

    def model(self, params):
        return self.config.model

    def preview(self, bundle):
        return None, {}


@pytest.mark.parametrize("resident", [0, 24])
def test_a_run_by_the_clock_is_repeated_by_its_config(resident, tmp_path, monkeypatch):
    monkeypatch.setitem(start.TASKS, "vae", Brightness)
    one_device = functools.partial(meshes.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(meshes, "make_mesh", one_device)
    monkeypatch.setattr("vjax.data.resident.BLOCK", 8)
    now = itertools.count()
    began = time.monotonic()
    clock = types.SimpleNamespace(monotonic=lambda: began + 0.1 * next(now))
    monkeypatch.setattr(minutes, "time", clock)  # a tenth of a second an update
    vae = dataclasses.replace(
        tiny.MODEL.vae, patch_size=4, dim_mult=(1, 1), temporal_downsample=(True,)
    )
    model = tiny.model(dit=None, text=None, vae=vae, frames=5)
    config = RunConfig(
        "run",
        "vae",
        model,
        (dataclasses.replace(STAGE, decay_from=1.0), dataclasses.replace(STAGE, restart=True)),
        DataConfig(resident=resident),
        minutes=0.1,
        run_dir=str(tmp_path),
        checkpoint_every=1000,
    )
    trainer.train(config)
    again = validation.load_config(str(tmp_path / "run" / "repeat.py"))
    assert again.minutes is None
    assert len(again.data.arrivals) <= resident // 8
    assert bool(again.data.arrivals) == bool(resident)
    trainer.train(again)

    def final(config: RunConfig):
        task = Brightness(config)
        state = trainer.init_state(task, {})
        checkpoints = Checkpoints(tmp_path / config.name / "checkpoints", config, {})
        restored = jax.device_get(checkpoints.read(checkpoints.newest(), state))
        checkpoints.close()
        return restored

    one, other = final(config), final(again)
    assert one["step"] == 30
    jax.tree.map(np.testing.assert_array_equal, one, other)
    with pytest.raises(ConfigError, match="made in one go"):
        trainer.train(config)
