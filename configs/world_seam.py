"""The default model goes on, with more windows cut from the middle of longer clips.

    python -m vjax.train configs/world_seam.py --vae=default --init=default
    python -m vjax.evaluate --model runs/world_seam/bundle --only "two windows"

500 updates of every group of shapes, about half an hour on two cores: what the share of `lead`
does to long clips, at a low rate, and how much memory a run of many shapes keeps.
"""

import dataclasses
import pathlib

from vjax import validation
from vjax.config import Bucket, Group, RunConfig, Stage

DIT = validation.load_config(str(pathlib.Path(__file__).with_name("world_dit.py")))


def small(bucket: Bucket) -> Bucket:
    """The shape in batches that keep an update at a few seconds."""
    return dataclasses.replace(bucket, batch=min(bucket.batch, 24 if bucket.frames == 17 else 16))


def group(group: Group) -> Group:
    """The group with small batches; those with a lead come in a third of the updates."""
    share = 0.48 if any(bucket.lead for bucket in group.buckets) else group.share
    return Group(tuple(small(bucket) for bucket in group.buckets), share)


def get_config() -> RunConfig:
    return dataclasses.replace(
        DIT,
        name="world_seam",
        stages=(
            Stage(
                groups=tuple(group(g) for g in DIT.stages[-1].groups),
                steps=500,
                learning_rate=5e-4,
                warmup=20,
                decay_from=0.3,
                ema=0.98,
                one_thing=0.75,
            ),
        ),
        sample_every=0,
    )
