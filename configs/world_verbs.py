"""The default model goes on, with what verbs beyond words know: each kind has its share of updates.

    python -m vjax.train configs/world_verbs.py --vae=default --init=default

Half of the updates are as in `world_seam.py`. About half an hour on two cores.
"""

import dataclasses
import pathlib

from vjax import validation
from vjax.config import Bucket, Group, RunConfig

SEAM = validation.load_config(str(pathlib.Path(__file__).with_name("world_seam.py")))
CLIP = Bucket(frames=17, height=96, width=96, batch=24, time_mean=2.2)
LONG = Bucket(frames=33, height=96, width=96, batch=16, time_mean=2.4)
# The share of all updates, by what the clips of such an update know.
SHARES = {
    dataclasses.replace(CLIP, spans=True): 0.15,  # texts over time: storyboards
    dataclasses.replace(CLIP, boxes=True): 0.1,  # regions: inpaint
    dataclasses.replace(CLIP, references=1): 0.15,  # characters
    dataclasses.replace(LONG, anchors=8): 0.1,  # frames in many places: interpolate, keyframes
}


def get_config() -> RunConfig:
    (stage,) = SEAM.stages
    whole = sum(group.share for group in stage.groups) / (1 - sum(SHARES.values()))
    verbs = tuple(Group((bucket,), whole * share) for bucket, share in SHARES.items())
    stages = (dataclasses.replace(stage, groups=(*stage.groups, *verbs)),)
    return dataclasses.replace(SEAM, name="world_verbs", stages=stages)
