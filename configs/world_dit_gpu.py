"""The DiT and text encoder of the default model, in minutes on one accelerator of 80 GB.

    XLA_PYTHON_CLIENT_MEM_FRACTION=.94 python -m vjax.train configs/world_dit_gpu.py --vae=default

It ends by the clock, and writes `runs/world_dit_gpu/repeat.py`, which repeats it by steps. All
cores of the host but two draw clips while it trains: 45,000 of them are 41 GB on the device, drawn
in about a minute by 16 cores. To train the shipped model further: `--init=default --name=further`.
"""

import dataclasses
import pathlib

from vjax import validation
from vjax.config import Bucket, DataConfig, Group, RunConfig, Stage

DIT = validation.load_config(str(pathlib.Path(__file__).with_name("world_dit.py")))


def mixture(height: int, width: int, share: float, anchors: int = 0) -> Group:
    """One update: pictures and two lengths of clips, some of which know later frames."""
    buckets = (
        Bucket(1, height, width, batch=160, time_mean=1.6),
        Bucket(17, height, width, batch=160, time_mean=2.2),
        Bucket(33, height, width, batch=128, time_mean=2.4),
    )
    if anchors:
        buckets += (Bucket(33, height, width, batch=48, anchors=anchors, time_mean=2.4),)
    return Group(buckets, share)


def get_config() -> RunConfig:
    return dataclasses.replace(
        DIT,
        name="world_dit_gpu",
        stages=(
            Stage(
                groups=(
                    mixture(96, 96, share=0.8, anchors=2),
                    mixture(80, 128, share=0.1),
                    mixture(128, 80, share=0.1),
                ),
                steps=2500,
                learning_rate=3e-3,
                warmup=60,
                decay_from=0.5,
                ema=0.997,
                one_thing=0.8,
            ),
        ),
        data=DataConfig(resident=45_000),
        minutes=8.0,
        checkpoint_every=1000,
        sample_every=0,
    )
