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


PICTURES = Bucket(1, 96, 96, batch=160, time_mean=1.6)
CLIPS = Bucket(17, 96, 96, batch=160, time_mean=2.2)
LONG = Bucket(33, 96, 96, batch=128, time_mean=2.4)
# Each has programs of its own, which compile at once: the fewer, the sooner the first update.
GROUPS = (
    Group((PICTURES, CLIPS, LONG, dataclasses.replace(LONG, batch=48, anchors=2)), share=0.6),
    *(
        Group(tuple(dataclasses.replace(b, height=h, width=w) for b in (PICTURES, CLIPS)), 0.08)
        for h, w in ((80, 128), (128, 80))
    ),
    # What verbs know beyond words, see `world_verbs.py`.
    Group(
        (
            PICTURES,
            dataclasses.replace(CLIPS, batch=64, spans=True),
            dataclasses.replace(CLIPS, batch=64, boxes=True),
            dataclasses.replace(CLIPS, batch=64, references=1),
            dataclasses.replace(LONG, batch=48, anchors=8),
        ),
        share=0.24,
    ),
)


def get_config() -> RunConfig:
    return dataclasses.replace(
        DIT,
        name="world_dit_gpu",
        stages=(
            Stage(
                groups=GROUPS,
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
