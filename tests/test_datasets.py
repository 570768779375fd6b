"""The captioned world as stored records: written without TensorFlow and read back exactly."""

import json
import sys

import numpy as np
import pytest
import tiny

from vjax import config as configs
from vjax import world
from vjax.config import Bucket, ConfigError, DataConfig
from vjax.data import datasets, loader

SHAPE = {"frames": 9, "height": 64, "width": 80}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    datasets.write_world(str(path), clips=6, **SHAPE)
    return str(path)


def test_records_are_the_clips_that_were_drawn(directory):
    clips = datasets.read_clips("captioned_world", directory)
    assert len(clips) == 6
    stored = sorted(record["video"].tobytes() for record in clips)
    drawn = [world.clip((0, i), **SHAPE) for i in range(6)]
    assert stored == sorted(video.tobytes() for video, *_ in drawn)
    facts = sorted(record["facts"] for record in clips)
    assert configs.from_dict(world.Facts, json.loads(facts[0])) in [f for _, f, *_ in drawn]
    assert "tensorflow" not in sys.modules


def test_training_reads_them_through_grain(directory):
    bucket = Bucket(frames=5, height=64, width=64, batch=2)
    config = DataConfig(source="tfds:captioned_world", directory=directory, buckets=(bucket,))
    batch = next(loader.batches(config, seed=1, tokenizer=tiny.tokenizer(), start=0, stop=2))
    assert batch.arrays["video"].shape == (2, 5, 64, 64, 3)
    assert batch.arrays["mask"].sum() > 10
    again = next(loader.batches(config, seed=1, tokenizer=tiny.tokenizer(), start=0, stop=2))
    np.testing.assert_array_equal(batch.arrays["video"], again.arrays["video"])


def test_a_missing_data_set_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no prepared data set 'other'"):
        datasets.read_clips("other", str(tmp_path))
