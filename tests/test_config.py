"""Overrides and files: what is wrong is said in one sentence."""

import dataclasses
import pathlib

import pytest

from vjax import config as configs
from vjax.config import ConfigError, ModelConfig, RunConfig

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load_and_survive_json(path):
    config = configs.load_config(str(path))
    assert isinstance(hash(config), int)
    assert configs.from_dict(RunConfig, configs.to_dict(config)) == config


def test_overrides_reach_nested_fields():
    config = configs.load_config(str(CONFIGS[0]))
    changed = configs.override(
        config, ["--steps=7", "--optimizer.learning_rate=1", "--vae=None", "--name=x"]
    )
    assert (changed.steps, changed.vae, changed.name) == (7, None, "x")
    assert changed.optimizer.learning_rate == 1.0
    assert dataclasses.replace(changed, steps=config.steps) != config


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--stepz=7", "did you mean 'steps'"),
        ("--optimizer.learning_rat=1", "did you mean 'learning_rate'"),
        ("--steps.more=1", "no fields of its own"),
        ("--steps=many", "must be int"),
        ("--steps=1.5", "must be int"),
        ("steps=7", "--field=value"),
    ],
)
def test_bad_overrides_are_refused(argument, message):
    config = configs.load_config(str(CONFIGS[0]))
    with pytest.raises(ConfigError, match=message):
        configs.override(config, [argument])


def test_a_config_file_with_an_unknown_field_is_refused(tmp_path):
    file = tmp_path / "c.py"
    file.write_text(
        "from vjax.config import DataConfig, ModelConfig, RunConfig\n"
        "def get_config():\n"
        "    model, data = ModelConfig(name='m'), DataConfig()\n"
        "    return RunConfig(name='r', trains='vae', model=model, data=data, stepz=3)\n"
    )
    with pytest.raises(ConfigError, match="stepz"):
        configs.load_config(str(file))
    with pytest.raises(ConfigError, match="no config file"):
        configs.load_config(str(tmp_path / "other.py"))


def test_a_bundle_with_an_unknown_field_is_refused():
    with pytest.raises(ConfigError, match="'colour'"):
        configs.from_dict(ModelConfig, {"name": "x", "colour": 1})
    with pytest.raises(ConfigError, match="fields of a DiTConfig"):
        configs.from_dict(ModelConfig, {"name": "x", "dit": 3})
