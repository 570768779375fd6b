"""The shipped configs: what they train fits their networks and eight devices, and it comes."""

import dataclasses
import pathlib

import pytest

from vjax import validation, weights
from vjax.training import tuning
from vjax.training.plan import Plan
from vjax.training.start import TASKS

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("name", ["world_dit", "world_dit_gpu"])
def test_the_shipped_model_is_one_that_its_config_describes(name):
    (path,) = (path for path in CONFIGS if path.stem == name)
    made, shipped = validation.load_config(str(path)).model, weights.read_config("default")
    assert dataclasses.replace(made, vae=shipped.vae, origin=shipped.origin) == shipped


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_bucket_of_a_shipped_config_can_be_trained_and_comes(path, caplog):
    config = validation.load_config(str(path))
    kind = TASKS[config.trains]
    if tuning.tunes(config):
        kind, tuned = tuning.TuneTask, validation.load_config(str(path.parent / "wan_1_3b.py"))
        config = dataclasses.replace(config, model=tuned.model)
    elif config.trains == "dit":
        vae = weights.read_config("default").vae
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, vae=vae))
    task, plan = kind(config), Plan(config.stages)
    for bucket in plan.buckets:
        assert bucket.batch % 8 == 0
        task.check(bucket, 8)
    assert not caplog.records  # a group that never comes is a warning
    if path.stem.startswith("world_dit"):  # what requests know
        for name in ("anchors", "boxes", "lead") if path.stem == "world_dit" else ("anchors",):
            assert any(getattr(bucket, name) for bucket in plan.buckets)
