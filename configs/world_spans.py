"""The default model goes on, with clips of two halves of which each hears its own text.

    python -m vjax.train configs/world_spans.py --vae=default --init=default

Storyboards and prompts that change ask for it. A third of the updates has such clips; the rest is
as in `world_seam.py`. About half an hour on two cores.
"""

import dataclasses
import pathlib

from vjax import validation
from vjax.config import Bucket, Group, RunConfig

SEAM = validation.load_config(str(pathlib.Path(__file__).with_name("world_seam.py")))
SPANS = Bucket(frames=17, height=96, width=96, batch=24, time_mean=2.2, spans=True)


def get_config() -> RunConfig:
    (stage,) = SEAM.stages
    rest = sum(group.share for group in stage.groups)
    groups = (*stage.groups, Group((SPANS,), share=rest / 2))
    stages = (dataclasses.replace(stage, groups=groups),)
    return dataclasses.replace(SEAM, name="world_spans", stages=stages)
