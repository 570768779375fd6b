"""The order of training data: one number decides it, on any number of hosts."""

import numpy as np
import pytest
import tiny

from vjax.config import Bucket, ConfigError, DataConfig
from vjax.data.loader import PERIOD, Schedule, batches

BUCKETS = (
    Bucket(frames=5, height=64, width=64, batch=4, weight=3),
    Bucket(frames=1, height=64, width=96, batch=8, weight=1),
)
CONFIG = DataConfig(buckets=BUCKETS, threads=2, prefetch=2)


def take(start: int, stop: int, process: tuple[int, int] = (0, 1), dropout: float = 0.0):
    return list(
        batches(
            CONFIG,
            seed=3,
            tokenizer=tiny.tokenizer(64),
            start=start,
            stop=stop,
            caption_dropout=dropout,
            process=process,
        )
    )


def test_every_bucket_gets_its_share():
    schedule = Schedule(BUCKETS, seed=0)
    counts = [sum(schedule[i] == bucket for i in range(PERIOD)) for bucket in BUCKETS]
    assert counts == [750, 250]
    assert schedule.clips_before(2 * PERIOD) == 2 * (750 * 4 + 250 * 8)


def test_resuming_repeats_the_uninterrupted_order():
    whole, resumed = take(0, 6), take(4, 6)
    for one, other in zip(whole[4:], resumed, strict=True):
        assert (one.step, one.bucket) == (other.step, other.bucket)
        np.testing.assert_array_equal(one.arrays["video"], other.arrays["video"])
        np.testing.assert_array_equal(one.arrays["ids"], other.arrays["ids"])


def test_hosts_share_each_batch_in_the_global_order():
    batches = take(0, 2)
    first, second = take(0, 2, (0, 2)), take(0, 2, (1, 2))
    for one, a, b in zip(batches, first, second, strict=True):
        for name, whole in one.arrays.items():
            parts = a.arrays[name], b.arrays[name]
            np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_no_clip_is_drawn_twice():
    clips = [clip.tobytes() for batch in take(0, 4) for clip in batch.arrays["video"]]
    assert len(set(clips)) == len(clips)


def test_caption_dropout_leaves_empty_texts():
    dropped = [batch.arrays["mask"].sum(1) == 1 for batch in take(0, 4, dropout=1.0)]
    assert np.concatenate(dropped).all()
    assert not np.concatenate([batch.arrays["mask"].sum(1) == 1 for batch in take(0, 4)]).any()


def test_a_batch_that_hosts_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="multiple of 3"):
        take(0, 1, (0, 3))
