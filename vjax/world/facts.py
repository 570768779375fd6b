"""What a clip of the captioned world shows, in exact terms, and how it is chosen.

Everything is plain data; `renderer` draws it and `captions` says it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS = {
    "red": (230, 40, 40),
    "orange": (255, 140, 20),
    "yellow": (250, 225, 50),
    "green": (40, 200, 70),
    "blue": (40, 90, 240),
    "purple": (150, 60, 210),
    "pink": (255, 120, 190),
    "white": (245, 245, 245),
}
MOTIONS = (
    "still",
    "left",
    "right",
    "up",
    "down",
    "bounces",
    "circles",
    "spins",
    "grows",
    "shrinks",
)
BACKGROUNDS = ("black", "gray", "sky", "sunset", "night", "grass")
CAMERAS = ("static", "pan left", "pan right", "zoom in", "zoom out")
STYLES = ("flat", "outline", "neon", "pixel")
RELATIONS = ("left of", "above", "behind")

# Never drawn in the training split, so that composition can be measured on them.
HELD_OUT_COLORS = frozenset(
    {
        ("circle", "purple"),
        ("square", "pink"),
        ("triangle", "orange"),
        ("star", "blue"),
        ("cross", "white"),
        ("ring", "green"),
    }
)
HELD_OUT_MOTIONS = frozenset(
    {
        ("circle", "bounces"),
        ("square", "circles"),
        ("triangle", "up"),
        ("star", "shrinks"),
        ("cross", "left"),
        ("ring", "grows"),
    }
)
GRADIENTS = {  # from the top of the frame to its bottom
    "black": ((8, 8, 10), (8, 8, 10)),
    "gray": ((112, 114, 118), (112, 114, 118)),
    "sky": ((70, 140, 215), (150, 200, 240)),
    "sunset": ((75, 50, 115), (215, 120, 85)),
    "night": ((10, 14, 44), (24, 32, 84)),
    "grass": ((58, 112, 48), (46, 94, 40)),
}
SPLAT_COLORS = {  # what clouds, stars and tufts add to it
    "sky": (38, 26, 12),
    "sunset": (40, 28, 12),
    "night": (190, 190, 170),
    "grass": (16, 26, 12),
}
NEON_DIM = 0.45  # of the background behind things in neon
WALL_COLOR = (125, 95, 80)
WALL_WIDTH = 0.32
WALL_SECONDS = 1.9  # passing behind the wall takes this long
CUT_SECONDS = 1.0  # a clip with two shots is at least this long


@dataclasses.dataclass(frozen=True)
class Thing:
    """One thing: what it is and what it does."""

    shape: str
    color: str
    motion: str = "still"


@dataclasses.dataclass(frozen=True)
class Shot:
    """What one uncut piece of a clip shows. `relation` is the first thing's to the second."""

    things: tuple[Thing, ...]
    background: str
    relation: str | None = None
    camera: str = "static"
    wall: bool = False


@dataclasses.dataclass(frozen=True)
class Facts:
    """Everything that a clip shows: one shot, or two of the same subject with a cut between."""

    shots: tuple[Shot, ...]
    style: str = "flat"


def is_held_out(shape: str, color: str, motion: str) -> bool:
    """Whether a thing belongs to the pairs that the training split never shows."""
    return (shape, color) in HELD_OUT_COLORS or (shape, motion) in HELD_OUT_MOTIONS


def can_show(shape: str, motion: str) -> bool:
    """A circle or a ring that spins looks as if it were still."""
    return not (motion == "spins" and shape in ("circle", "ring"))


def sample_thing(
    rng: np.random.Generator, motions: Sequence[str] = MOTIONS, split: str = "train"
) -> Thing:
    """A thing of the split: "train", "held_out" (at least one held-out pair) or "any"."""
    while True:
        thing = Thing(
            shape=str(rng.choice(SHAPES)),
            color=str(rng.choice(list(COLORS))),
            motion=str(rng.choice(motions)),
        )
        held_out = is_held_out(thing.shape, thing.color, thing.motion)
        if can_show(thing.shape, thing.motion) and (
            split == "any" or held_out == (split == "held_out")
        ):
            return thing


def _sample_pair(rng: np.random.Generator, split: str) -> tuple[tuple[Thing, ...], str]:
    relation = str(rng.choice(RELATIONS, p=(0.4, 0.4, 0.2)))
    moves = {
        "left of": ("still", "still", "up", "down", "bounces", "spins"),
        "above": ("still", "still", "left", "right", "spins"),
        "behind": ("still",),
    }[relation]
    while True:
        first = sample_thing(rng, moves, split)
        second = sample_thing(rng, ("still",), "train" if split == "train" else "any")
        if first.color != second.color:
            return (first, second), relation


def sample_facts(rng: np.random.Generator, seconds: float, split: str = "train") -> Facts:
    """Facts of a clip of this length, from the split: "train", "held_out" or "any"."""
    style = str(rng.choice(STYLES, p=(0.85, 0.05, 0.05, 0.05)))
    background = str(rng.choice(BACKGROUNDS))
    kind = rng.choice(
        ("one", "pair", "camera", "wall", "cut"),
        p=(0.6, 0.17, 0.11, 0.06, 0.06),
    )
    if (kind == "wall" and seconds < WALL_SECONDS) or (kind == "cut" and seconds < CUT_SECONDS):
        kind = "one"
    if kind == "pair":
        things, relation = _sample_pair(rng, split)
        return Facts((Shot(things, background, relation),), style)
    if kind == "camera":
        thing = sample_thing(rng, ("still", "spins"), split)
        # A black or gray background would not show that the camera moves.
        background = str(rng.choice([b for b in BACKGROUNDS if b not in ("black", "gray")]))
        camera = str(rng.choice(CAMERAS[1:]))
        return Facts((Shot((thing,), background, camera=camera),), style)
    if kind == "wall":
        thing = sample_thing(rng, ("left", "right"), split)
        return Facts((Shot((thing,), background, wall=True),), style)
    thing = sample_thing(rng, split=split)
    shot = Shot((thing,), background)
    if kind == "one":
        return Facts((shot,), style)
    while True:
        motion = str(rng.choice(MOTIONS))
        other = str(rng.choice([b for b in BACKGROUNDS if b != background]))
        held_out = is_held_out(thing.shape, thing.color, motion)
        if can_show(thing.shape, motion) and not (split == "train" and held_out):
            second = Shot((dataclasses.replace(thing, motion=motion),), other)
            return Facts((shot, second), style)


def cut_frame(frames: int) -> int:
    """The first frame of the second shot of a clip with two."""
    return (frames + 1) // 2
