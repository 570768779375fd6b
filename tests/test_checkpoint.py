"""Checkpoints: what is damaged is set aside and nothing else, and what a run may go on with."""

import dataclasses
import logging
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vjax import validation
from vjax.config import (
    Bucket,
    ConfigError,
    DiTLossConfig,
    Group,
    OptimizerConfig,
    RunConfig,
    SamplerConfig,
    Stage,
)
from vjax.training import checkpoint, resume
from vjax.training.checkpoint import CheckpointError, Checkpoints

BUCKET = Bucket(frames=5, height=32, width=32, batch=8)
CONFIG = RunConfig(
    name="run",
    trains="dit",
    model=tiny.MODEL,
    stages=(Stage((Group((BUCKET,)),), steps=10, learning_rate=1e-2),),
)
INPUTS = {"vae": "a" * 16, "tokenizer": "b" * 16, "dtype": "float32"}
KERNEL = np.random.default_rng(0).normal(size=(64, 48)).astype(np.float32)


def state(step: int = 0) -> dict:
    return {"step": jnp.int32(step), "params": {"kernel": jnp.asarray(KERNEL)}}


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("written")
    checkpoints = Checkpoints(directory / "checkpoints", CONFIG, INPUTS)
    for step in (2, 4):
        checkpoints.save(step, state(step))
    checkpoints.close()
    return directory


@pytest.fixture
def directory(written, tmp_path) -> pathlib.Path:
    """The checkpoints of steps 2 and 4 of a run."""
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run" / "checkpoints"


def restored(directory, config=CONFIG, inputs=INPUTS):
    checkpoints = Checkpoints(directory, config, inputs)
    try:
        step = checkpoints.newest()
        return None if step is None else checkpoints.read(step, state())
    finally:
        checkpoints.close()


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(directory: pathlib.Path) -> pathlib.Path:
    return max(directory.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)


# --- Damage --------------------------------------------------------------------------------------


def test_the_newest_is_restored_where_the_target_lies(directory):
    found = restored(directory)
    assert int(found["step"]) == 4
    np.testing.assert_array_equal(found["params"]["kernel"], KERNEL)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    like = {"step": state()["step"], "params": jax.device_put(state()["params"], split)}
    checkpoints = Checkpoints(directory, CONFIG, INPUTS)
    found = checkpoints.read(checkpoints.newest(), like)["params"]["kernel"]
    checkpoints.close()
    assert found.sharding == split
    np.testing.assert_array_equal(found, KERNEL)


DAMAGE = {
    "the arrays are cut": lambda d: half(largest(d / "state")),
    "a bit of the arrays differs": lambda d: flip(largest(d / "state")),
    "the arrays are gone": lambda d: largest(d / "state").unlink(),
    "the config is cut": lambda d: half(d / "config" / "metadata"),
    "a part is gone": lambda d: shutil.rmtree(d / "state"),
    "the checksums are a list": lambda d: (d / checkpoint.CHECKSUMS).write_text("[1]"),
    "the checksums are nested": lambda d: (d / checkpoint.CHECKSUMS).write_text("[" * 10**5),
    "the checksums name no file": lambda d: (d / checkpoint.CHECKSUMS).write_text('{"state": ""}'),
    "all is cut": lambda d: [half(path) for path in d.rglob("*") if path.is_file()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(damage, directory, caplog):
    DAMAGE[damage](directory / "4")
    checkpoints = Checkpoints(directory, CONFIG, INPUTS)
    with caplog.at_level(logging.WARNING, "vjax"):
        found = checkpoints.read(checkpoints.newest(), state())
    assert int(found["step"]) == 2
    assert "Checkpoint 4 is damaged" in caplog.text
    assert (directory.parent / "damaged-4").is_dir()
    assert checkpoints.last() == 2
    checkpoints.save(4, state(4))  # the run goes on
    assert checkpoints.last() == 4
    checkpoints.close()


def test_each_process_reads_its_share_of_the_files(directory, monkeypatch):
    read, checksum = [], checkpoint._checksum
    monkeypatch.setattr(checkpoint, "_checksum", lambda path: read.append(path) or checksum(path))
    shares = [(number, 3) for number in range(3)]
    assert [checkpoint.find_damage(directory / "4", share) for share in shares] == [None] * 3
    assert sorted(read) == checkpoint._files(directory / "4")
    flip(largest(directory / "4" / "state"))
    found = [checkpoint.find_damage(directory / "4", share) for share in shares]
    assert found.count(None) == 2


def test_a_run_of_damaged_checkpoints_starts_again_only_when_told(directory):
    for step in ("2", "4"):
        flip(largest(directory / step / "state"))
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"are damaged .*--ignore_damaged=True"):
            restored(directory)
    assert restored(directory, dataclasses.replace(CONFIG, ignore_damaged=True)) is None
    assert {path.name for path in directory.parent.glob("damaged-*")} == {"damaged-2", "damaged-4"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files"),
        PermissionError(13, "Permission denied"),
        TimeoutError("the file system does not answer"),
        MemoryError(),
        Exception("Encountered error while reading array index"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["checksums", "arrays"])
def test_what_is_not_damage_ends_the_run_and_moves_nothing(error, where, directory, monkeypatch):
    def fail(*_):
        raise error

    if where == "checksums":
        monkeypatch.setattr(checkpoint, "_checksum", fail)
    else:
        monkeypatch.setattr(Checkpoints, "_read", fail)
    with pytest.raises(CheckpointError, match=f"Checkpoint 4 .*{type(error).__name__}"):
        restored(directory)
    assert {path.name for path in directory.iterdir()} == {"2", "4"}
    assert [path.name for path in directory.parent.iterdir()] == ["checkpoints"]


def test_a_checkpoint_without_checksums_is_read(directory):
    (directory / "4" / checkpoint.CHECKSUMS).unlink()
    assert int(restored(directory)["step"]) == 4


def test_a_process_killed_while_it_saves_leaves_the_checkpoint_before(directory):
    script = f"""
        import os, pathlib, signal, sys
        sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
        import test_checkpoint as this
        checkpoints = this.Checkpoints(
            pathlib.Path({str(directory)!r}),
            this.dataclasses.replace(this.CONFIG, keep_checkpoints=1),
        )
        # All files are written, and the directory is about to get its name.
        this.checkpoint._checksum = lambda path: os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.save(6, this.state(6))
        checkpoints.wait()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert done.returncode == -9, done.stderr.decode()[-2000:]
    assert any(path.name.startswith("6.") for path in directory.iterdir())
    checkpoints = Checkpoints(directory, CONFIG, INPUTS)
    assert int(checkpoints.read(checkpoints.newest(), state())["step"]) == 4
    checkpoints.save(6, state(6))
    checkpoints.close()
    assert {path.name for path in directory.iterdir()} == {"4", "6"}


def test_a_save_that_fails_reaches_the_loop_and_keeps_the_one_before(directory, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_checksum", full)
    config = dataclasses.replace(CONFIG, keep_checkpoints=1)
    checkpoints = Checkpoints(directory, config, INPUTS)
    checkpoints.save(6, state(6))
    with pytest.raises(CheckpointError, match=r"Checkpoint 6 could not be saved .*No space left"):
        checkpoints.wait()
    monkeypatch.undo()
    assert int(restored(directory)["step"]) == 4


# --- What must be the same -----------------------------------------------------------------------


def stage(**changes) -> dict:
    """The config's only stage with some fields changed."""
    return {"stages": (dataclasses.replace(CONFIG.stages[0], **changes),)}


MUST_MATCH = {
    'trains was "dit" and is "vae"': {"trains": "vae"},
    "seed was 0 and is 1": {"seed": 1},
    r"stages\[0\].steps was 10 and is 20": stage(steps=20),
    r"frozen was \[\] and is \[\"text\"\]": {"frozen": ("text",)},
    "dit_loss.time_std was 1.0 and is 1.6": {"dit_loss": DiTLossConfig(time_std=1.6)},
    "optimizer.weight_decay was 0.0 and is 0.1": {"optimizer": OptimizerConfig(weight_decay=0.1)},
    r"stages\[0\].warmup was 100 and is 7": stage(warmup=7),
    r"stages\[0\].groups\[0\].buckets\[0\].batch was 8 and is 16": stage(
        groups=(Group((dataclasses.replace(BUCKET, batch=16),)),)
    ),
    "model.dit.depth was 2 and is 3": {
        "model": tiny.model(dit=dataclasses.replace(tiny.MODEL.dit, depth=3))
    },
    "model.dit.heads was 2 and is 4; model.dit.head_dim was 8 and is 4": {
        "model": tiny.model(dit=dataclasses.replace(tiny.MODEL.dit, heads=4, head_dim=4))
    },
}


@pytest.mark.parametrize("message", MUST_MATCH)
def test_another_setting_is_refused_by_name_with_both_values(message, directory):
    with pytest.raises(ConfigError, match=message):
        restored(directory, dataclasses.replace(CONFIG, **MUST_MATCH[message]))
    assert {path.name for path in directory.iterdir()} == {"2", "4"}


@pytest.mark.parametrize("name", INPUTS)
def test_other_content_of_the_same_files_is_refused(name, directory):
    with pytest.raises(ConfigError, match=f'the content of {name} was .* and is "other"'):
        restored(directory, inputs={**INPUTS, name: "other"})


def test_what_decides_no_number_may_change(directory):
    config = dataclasses.replace(
        CONFIG,
        run_dir="elsewhere",
        vae="moved",
        log_every=1,
        steps=5,
        keep_checkpoints=5,
        sample_prompts=("a red circle",),
        data=dataclasses.replace(CONFIG.data, threads=7),
        model=tiny.model(frames=5, sampler=SamplerConfig(steps=3), origin="another"),
    )
    assert int(restored(directory, config)["step"]) == 4


def test_a_lower_rate_is_taken_and_said(directory, caplog):
    with caplog.at_level(logging.WARNING, "vjax"):
        found = restored(directory, dataclasses.replace(CONFIG, **stage(learning_rate=1e-3)))
    assert int(found["step"]) == 4
    assert "stages[0].learning_rate was 0.01 and is 0.001 from here on" in caplog.text


def test_fields_come_and_go_without_making_old_runs_unusable():
    saved = validation.to_dict(CONFIG)
    del saved["dit_loss"]["nothing"], saved["frozen"]  # they came later, with default values
    saved["vae_loss"]["gone"] = 0.0  # and this one went
    resume.check_resume(CONFIG, {}, saved, "runs/run")
    other = dataclasses.replace(CONFIG, dit_loss=DiTLossConfig(nothing=0.5))
    with pytest.raises(ConfigError, match=r"dit_loss.nothing was 0.6 and is 0.5"):
        resume.check_resume(other, {}, saved, "runs/run")
    saved["vae_loss"]["gone"] = 0.5
    with pytest.raises(ConfigError, match=r"vae_loss.gone was 0.5 and is not there"):
        resume.check_resume(CONFIG, {}, saved, "runs/run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "model.dit.depth was 2 and is 3"),
        ({"heads": 4, "head_dim": 4}, "model.dit.heads was 2 and is 4; .*head_dim was 8 and is 4"),
        ({"rope_theta": 100.0}, "model.dit.rope_theta"),
    ],
)
def test_a_start_from_another_network_is_refused_by_name(changes, message):
    wanted = dataclasses.replace(tiny.MODEL.dit, **changes)
    with pytest.raises(ConfigError, match=f"The dit of BUNDLE is another .*{message}"):
        resume.check_start("dit", tiny.MODEL.dit, wanted, "BUNDLE")
    resume.check_start(
        "dit",
        tiny.MODEL.dit,
        dataclasses.replace(
            wanted, **{name: getattr(tiny.MODEL.dit, name) for name in changes}, remat=True
        ),
        "BUNDLE",
    )


def test_inputs_are_hashes_of_what_the_files_hold():
    params = tiny.params()

    def found(params=params, tokenizer=None):
        return resume.inputs(CONFIG, np.dtype("float32"), params["vae"], params, tokenizer)

    assert found() == found(jax.tree.map(np.copy, params))
    changed = jax.tree.map(lambda leaf: leaf + np.float32(1e-6), params)
    assert found(changed)["vae"] != found()["vae"]
    assert found(tokenizer=tiny.tokenizer())["tokenizer"]
