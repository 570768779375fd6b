"""The order of training data: one number decides it, on any number of hosts."""

import numpy as np
import tiny

from vjax.config import Bucket, DataConfig, Group, RunConfig, Stage
from vjax.data.loader import batches
from vjax.training.plan import Plan

CLIPS = Bucket(frames=5, height=64, width=64, batch=4)
PICTURES = Bucket(frames=1, height=64, width=96, batch=8)
LATER = Bucket(frames=5, height=64, width=64, batch=4, lead=2)
STAGES = (
    Stage((Group((CLIPS,), share=2), Group((PICTURES, CLIPS))), steps=4),
    Stage((Group((PICTURES, LATER)),), steps=2),
)
CONFIG = RunConfig("run", "dit", tiny.MODEL, STAGES, DataConfig(threads=2, prefetch=2), seed=3)


def take(start: int, stop: int, own=range, dropout: float = 0.0):
    return list(
        batches(
            CONFIG,
            Plan(STAGES),
            tokenizer=tiny.tokenizer(64),
            start=start,
            stop=stop,
            caption_dropout=dropout,
            own=own,
        )
    )


def clips_of(found) -> list:
    """Every clip with its ids, in order."""
    parts = [arrays for batch in found for _, arrays in batch.parts]
    return [pair for part in parts for pair in zip(part["video"], part["ids"], strict=True)]


def test_batches_are_those_of_the_plan():
    plan = Plan(STAGES)
    for batch in take(0, 6):
        assert [bucket for bucket, _ in batch.parts] == list(plan[batch.update.step].group.buckets)
        for bucket, arrays in batch.parts:
            frames = bucket.frames + 4 * bucket.lead
            shape = (bucket.batch, frames, bucket.height, bucket.width, 3)
            assert arrays["video"].shape == shape


def test_resuming_repeats_the_uninterrupted_order():
    whole, resumed = take(0, 6), take(3, 6)
    assert [batch.update.step for batch in resumed] == [3, 4, 5]
    for one, other in zip(clips_of(whole[3:]), clips_of(resumed), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def lower(batch: int) -> range:
    return range(batch // 2)


def upper(batch: int) -> range:
    return range(batch // 2, batch)


def test_hosts_share_each_batch_in_the_global_order():
    whole, first, second = take(0, 4), take(0, 4, lower), take(0, 4, upper)
    for batch, a, b in zip(whole, first, second, strict=True):
        for (bucket, one), (_, mine), (_, other) in zip(batch.parts, a.parts, b.parts, strict=True):
            for name, both in one.items():
                assert len(mine[name]) == bucket.batch // 2
                np.testing.assert_array_equal(both, np.concatenate([mine[name], other[name]]))


def test_no_clip_is_drawn_twice():
    clips = [clip.tobytes() for clip, _ in clips_of(take(0, 6))]
    assert len(set(clips)) == len(clips)


def test_caption_dropout_leaves_empty_texts():
    texts = [(ids > 0).sum() for _, ids in clips_of(take(0, 4, dropout=1.0))]
    assert set(texts) == {1}
    assert min((ids > 0).sum() for _, ids in clips_of(take(0, 4))) > 1
