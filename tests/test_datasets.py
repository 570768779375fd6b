"""Stored clips: written without TensorFlow, read back exactly, some of them never trained on."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny

from vjax import validation, world
from vjax.config import Bucket, ConfigError, DataConfig, Group, RunConfig, Stage
from vjax.data import datasets, loader
from vjax.training.plan import Plan

SHAPE = {"frames": 9, "height": 64, "width": 80}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    datasets.write_world(str(path), clips=6, **SHAPE)
    return str(path)


def test_records_are_the_clips_that_were_drawn(directory):
    clips, _ = datasets.training_and_held_out("captioned_world", directory)
    assert len(clips) == 6
    stored = sorted(record["video"].tobytes() for record in clips)
    drawn = [world.clip((0, i), **SHAPE) for i in range(6)]
    assert stored == sorted(video.tobytes() for video, *_ in drawn)
    facts = sorted(record["facts"] for record in clips)
    assert validation.from_dict(world.Facts, json.loads(facts[0])) in [f for _, f, *_ in drawn]
    assert "tensorflow" not in sys.modules


def test_training_reads_them_through_grain(directory):
    bucket = Bucket(frames=5, height=64, width=64, batch=2)
    data = DataConfig(source="tfds:captioned_world", directory=directory)
    stages = (Stage((Group((bucket,)),), steps=2),)
    config = RunConfig("run", "dit", tiny.model(fps=16), stages, data)

    def first():
        batches = loader.batches(config, Plan(stages), tokenizer=tiny.tokenizer(), start=0, stop=2)
        ((found, arrays),) = next(batches).parts
        assert found == bucket
        return arrays

    arrays = first()
    assert arrays["video"].shape == (2, 5, 64, 64, 3)
    assert arrays["mask"].sum() > 10
    np.testing.assert_array_equal(arrays["video"], first()["video"])
    one_thing = dataclasses.replace(stages[0], one_thing=0.5)
    with pytest.raises(ConfigError, match="one_thing"):
        loader.batches(config, Plan((one_thing,)), tokenizer=None, start=0, stop=2)


def test_the_command_writes_them(tmp_path):
    # In a process of its own: what is called as a module has another name for itself.
    sizes = ["--clips", "2", "--frames", "5", "--height", "64", "--width", "64"]
    command = [sys.executable, "-m", "vjax.data.datasets", "--directory", str(tmp_path), *sizes]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert pathlib.Path(done.stdout.splitlines()[-1], "metadata.json").is_file()


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no prepared data set 'other'"):
        datasets.find_prepared("other", str(tmp_path))


# --- What is there already -----------------------------------------------------------------------


def test_the_same_clips_are_kept_and_others_refused(directory, capsys):
    (info,) = pathlib.Path(directory).glob("captioned_world/*/dataset_info.json")
    before = info.stat().st_mtime_ns
    assert datasets.write_world(directory, clips=6, **SHAPE) == info.parent
    with pytest.raises(ConfigError, match="clips was 6 and is 7; height was 64 and is 32"):
        datasets.write_world(directory, clips=7, **{**SHAPE, "height": 32})
    assert datasets.main(["--directory", directory, "--clips", "7"]) == 1
    assert "holds other clips" in capsys.readouterr().err
    assert info.stat().st_mtime_ns == before
    clips, _ = datasets.training_and_held_out("captioned_world", directory)
    assert len(clips) == 6


def test_clips_that_would_be_drawn_otherwise_today_are_refused(directory, monkeypatch):
    draw = world.clip
    monkeypatch.setattr(world, "clip", lambda seed, **options: draw((*seed, 1), **options))
    with pytest.raises(ConfigError, match="holds other clips than these: first_clip"):
        datasets.write_world(directory, clips=6, **SHAPE)


def test_the_newest_version_is_the_highest_number(tmp_path):
    for version in ("9.0.0", "10.0.0", "10.0.0.incompleteABC", "2.5.0"):
        (tmp_path / "some" / version).mkdir(parents=True)
        (tmp_path / "some" / version / "dataset_info.json").write_text("{}")
    assert datasets.find_prepared("some", str(tmp_path)).name == "10.0.0"


# --- Held out ------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_split", [True, False], ids=["a split of its own", "carved off"])
def test_held_out_clips_are_never_trained_on_in_any_epoch(own_split, directory, tmp_path):
    if not own_split:
        shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
        (file,) = tmp_path.glob("captioned_world/*/dataset_info.json")
        info = json.loads(file.read_text())
        info["splits"] = [split for split in info["splits"] if split["name"] == "train"]
        file.write_text(json.dumps(info))
        directory = str(tmp_path)
    bucket = Bucket(frames=9, height=64, width=80, batch=2)
    config = DataConfig(source="tfds:captioned_world", directory=directory)
    training, held_out = (
        {source(index, bucket, 0.0)[0].tobytes() for index in range(30)}
        for source in (loader.make_source(config, 0, 16.0, held_out=h) for h in (False, True))
    )
    assert (len(training), len(held_out)) == ((6, 1) if own_split else (5, 1))
    assert not training & held_out
