"""The captioned world: short clips of simple things that move, drawn from facts.

A clip is drawn in three steps, each seeded: `sample_facts` chooses what happens, `render` draws it
and `caption` says it in words. Facts are exact, so a model that was trained on this world can be
measured: `vjax.world.oracle` reads them back from pixels.

Geometry is in units of the frame's shorter side, with the origin at the frame's centre, y down and
time in seconds. So one fact looks alike at any size, aspect and frame rate. Nothing ever leaves the
frame: what reaches an edge stays there, so that any clip can be continued.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vjax.world.captions import caption, vocabulary
from vjax.world.facts import (
    BACKGROUNDS,
    CAMERAS,
    COLORS,
    CUT_SECONDS,
    MOTIONS,
    RELATIONS,
    SHAPES,
    STYLES,
    WALL_SECONDS,
    Facts,
    Shot,
    Thing,
    can_show,
    cut_frame,
    is_held_out,
    sample_facts,
    sample_thing,
)
from vjax.world.renderer import render

__all__ = [
    "BACKGROUNDS",
    "CAMERAS",
    "COLORS",
    "CUT_SECONDS",
    "MOTIONS",
    "RELATIONS",
    "SHAPES",
    "STYLES",
    "WALL_SECONDS",
    "Facts",
    "Shot",
    "Thing",
    "can_show",
    "caption",
    "clip",
    "cut_frame",
    "is_held_out",
    "render",
    "sample_facts",
    "sample_thing",
    "vocabulary",
]

_FACTS, _DRAWING = 1, 2


def clip(
    seed: int | Sequence[int],
    *,
    frames: int,
    height: int,
    width: int,
    fps: float = 16.0,
    split: str = "train",
    one_thing: float = 0.0,
) -> tuple[UInt8[np.ndarray, "T H W 3"], Facts, str, str]:
    """The clip that this seed stands for: frames, facts, a short and a long caption.

    Args:
        one_thing: the chance of one flat thing under a still camera; the rest are of any kind.
    """
    parts = (seed,) if isinstance(seed, int) else tuple(seed)
    # What a stream is for comes first, then how long the seed is: numpy pads tuples with zeros.
    rng = np.random.default_rng((_FACTS, len(parts), *parts))
    if one_thing and rng.uniform() < one_thing:
        shot = Shot((sample_thing(rng, split=split),), str(rng.choice(BACKGROUNDS)))
        facts = Facts((shot,))
    else:
        facts = sample_facts(rng, (frames - 1) / fps, split)
    moving = frames > 1
    video = render(
        facts, (_DRAWING, len(parts), *parts), frames=frames, height=height, width=width, fps=fps
    )
    short = caption(facts, rng, long=False, moving=moving)
    return video, facts, short, caption(facts, rng, long=True, moving=moving)
