"""Configs from files, JSON and the command line: what is wrong is said in one sentence."""

import dataclasses
import json
import pathlib

import pytest
import tiny

from vjax import validation, weights
from vjax.config import ConfigError, ModelConfig, RunConfig

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return validation.load_config(str(CONFIGS[0].with_name("world_dit.py")))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_load_and_survive_json(path):
    config = validation.load_config(str(path))
    assert isinstance(hash(config), int)
    values = json.loads(json.dumps(validation.to_dict(config)))
    assert validation.from_dict(RunConfig, values) == config


def test_overrides_reach_every_field(config):
    changed = validation.override(
        config,
        [
            "--steps=7",
            "--stages.0.learning_rate=1",
            "--vae=None",
            "--run_dir",
            "-x=1",
            "--model.sampler.guidance=-1.5",
            "--model.dit.anchors=false",
            '--sample_prompts=("a", "b")',
            "--model.vae={'dim_mult': (1, 2), 'temporal_downsample': [True]}",
            "--model.vae.z_dim=16",
        ],
    )
    assert (changed.steps, changed.vae, changed.run_dir) == (7, None, "-x=1")
    assert changed.stages[0].learning_rate == 1.0
    assert isinstance(changed.stages[0].learning_rate, float)
    assert changed.model.sampler.guidance == -1.5
    assert changed.model.dit.anchors is False
    assert changed.sample_prompts == ("a", "b")
    assert changed.model.vae.dim_mult == (1, 2)
    kept = dataclasses.replace(changed.model, vae=None, sampler=config.model.sampler)
    assert kept == validation.override(config, ["--model.dit.anchors=False"]).model


def test_elements_of_tuples_can_be_changed():
    model = validation.override(tiny.MODEL, ["--vae.latents_mean.1=3", "--vocabulary.0=one"])
    assert model.vae.latents_mean == (0.1, 3.0, 0.2, 0.0)
    assert model.vocabulary == ("one", *tiny.MODEL.vocabulary[1:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stepz=7"], "'stepz': did you mean 'steps'"),
        (["--optimizer.weight_deca=1"], "did you mean 'weight_decay'"),
        (["--seed.more=1"], r"'seed.more': seed is \d+"),
        (["--stages.9.steps=1"], r"stages has \d elements"),
        (["--steps=many"], "steps must be a whole number.*got 'many'"),
        (["--steps=1.5"], "steps must be a whole number.*got 1.5"),
        (["--steps=True"], "steps must be a whole number.*got True"),
        (["--stages.0.learning_rate=nan"], "learning_rate must be a finite number.*got 'nan'"),
        (["--stages.0.learning_rate=1e999"], "learning_rate must be a finite number.*got inf"),
        (["--model.dit.patch=(1,2)"], r"model.dit.patch must be a list of 3, got \(1, 2\)"),
        (["--model.dit.patch=()"], r"model.dit.patch must be a list of 3, got \(\)"),
        (["--model.dit.patch.7=1"], "model.dit.patch has 3 elements"),
        (["--model.dit.patch=(2,2,2)"], "model.dit: patch must be 1 in time"),
        (["--model.dit.width=-8"], "model.dit.width must be a whole number from 1 to"),
        (["--model.dit.head_dim=63"], "model.dit: head_dim must be even"),
        (["--model.dit.text_width=64"], "dit.text_width must be text.width"),
        (["--model.dit=7"], "model.dit must be the fields of a DiTConfig, got 7"),
        (["--model.vae={'dim_mult': (1, 2)}"], "model.vae: .*changes size 1 times"),
        (["--model.vae={'dim_mult': ()}"], "model.vae: A VAE has 1 to 9 stages"),
        (["--model.vae={'z_dim': 8, 'latents_mean': (1,)}"], "latents_mean has 1 numbers"),
        (
            [
                "--model.vae={'dim_mult': (3, 2), 'temporal_downsample': [False]}",
                "--model.vae.base_dim=5",
                "--model.vae.residual=true",
            ],
            "model.vae: A residual VAE cannot",
        ),
        (["--model.vae={}", "--model.vae.z_dim=8"], "dit.out_channels must be"),
        (["--model.text.tokenizer=../x.json"], "text.tokenizer must be one of 'tokenizer.json'"),
        (["--model.sampler.solver=dpm"], "solver must be one of 'unipc', 'euler', 'heun'"),
        (["--model.conditioning=magic"], "conditioning must be one of "),
        (["--model.vocabulary=[1]"], "model.vocabulary.0 must be a text, got 1"),
        (["--model.vocabulary=red"], "model.vocabulary must be a list, got 'red'"),
        (["--model.frames=90"], "frames is more than max_frames"),
        (["--name=a", "--steps=x", "--seed=y"], "steps must be .*; seed must be "),
        (["steps=7"], "--field=value, got 'steps=7'"),
        (["--steps"], "--steps needs a value"),
        (["--steps=" + "[" * 9999], "steps must be a whole number"),
    ],
)
def test_bad_overrides_are_refused(config, arguments, message):
    with pytest.raises(ConfigError, match=message):
        validation.override(config, arguments)


HEAD = "from vjax.config import *\ndef get_config():\n    m, stages = ModelConfig(name='m'), ()\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEAD + "    return RunConfig(name='r', trains='vae', model=m, stages=stages, stepz=3)",
            "line 4: .*'stepz'",
        ),
        (HEAD + "    return m.vea", "line 4: AttributeError: .*'vea'"),
        (HEAD + "    return VAEConfig(dim_mult=(1, 2))", "line 4: A VAE with 2 stages"),
        (HEAD + "    return m", "returns a ModelConfig, no RunConfig"),
        ("import nothing_of_that_name", "line 1: ModuleNotFoundError"),
        ("\n\nno Python", "line 3: SyntaxError"),
        (b"\x89PNG\r\n\0", "SyntaxError"),
        ("get_config = 3", "TypeError"),
        ("import sys\nsys.exit()", "line 2: SystemExit"),
        ("def other(): pass", "must define get_config"),
        (
            HEAD
            + "    m = ModelConfig(name='m', fps=-1)\n"
            + "    return RunConfig(name='r', trains='vae', model=m, stages=stages)",
            ": model.fps must be a finite number from 0.01 to 1000, got -1",
        ),
    ],
)
def test_what_is_wrong_with_a_config_file_is_said(tmp_path, text, message):
    file = tmp_path / "c.py"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=f"^{file}.*{message}"):
        validation.load_config(str(file))


def test_the_line_of_a_config_is_said_however_its_path_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("c.py").write_text("import nothing_of_that_name")
    with pytest.raises(ConfigError, match=r"^\./c\.py, line 1: "):
        validation.load_config("./c.py")


def test_a_config_file_has_to_be_there(tmp_path):
    with pytest.raises(ConfigError, match="no config file"):
        validation.load_config(str(tmp_path / "other.py"))
    with pytest.raises(ConfigError, match="no config file"):
        validation.load_config(str(tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "x", "colour": 1}, "unknown field 'colour'"),
        (
            {"dit": {"widht": 1}},
            "name is missing; unknown field 'widht' in dit: did you mean 'width'",
        ),
        ({"name": "x", "dit": 3}, "dit must be the fields of a DiTConfig, got 3"),
        ({"name": 3}, "name must be a text, got 3"),
        ({"name": "x", "fps": float("nan")}, "fps must be a finite number"),
        ({"name": "x", "fps": 10**400}, "fps must be a finite number"),
        ({"name": "x", "vae": {"latents_mean": [[1]]}}, "latents_mean.0 must be a finite number"),
        ([], "it must be the fields of a ModelConfig"),
    ],
)
def test_what_cannot_be_a_model_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        validation.from_dict(ModelConfig, values)


def test_older_descriptions_load_where_what_is_gone_was_not_used():
    values = validation.to_dict(weights.read_config("default"))
    old = {**values["vae"], "linear": False, "latents_spread": []}
    assert validation.from_dict(ModelConfig, {**values, "vae": old}) == weights.read_config(
        "default"
    )
    with pytest.raises(ConfigError, match=r"vae\.linear is of an older vjax"):
        validation.from_dict(ModelConfig, {**values, "vae": {**old, "linear": True}})


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", "a\n"])
def test_a_run_stays_in_a_directory_of_its_own(config, name):
    with pytest.raises(ConfigError, match="name of a run"):
        validation.override(config, [f"--name={name}"])
    assert validation.override(config, ["--name=vae.2-b"]).name == "vae.2-b"
