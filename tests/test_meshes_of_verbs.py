"""Verbs on a mesh: what each adds to a condition lies on devices as the rest does."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

import vjax
from vjax import planning, stages
from vjax.config import MeshConfig
from vjax.parallel import rehearsal
from vjax.pipeline import Pipeline
from vjax.tiles import tiles_of
from vjax.timeline import Timeline

# Fifteen tokens in a tile, which devices do not divide; there are nine tiles.
MODEL = tiny.model(
    width=40,
    height=24,
    max_side=80,
    dit=dataclasses.replace(tiny.MODEL.dit, depth=1),
    vae=dataclasses.replace(
        tiny.MODEL.vae, patch_size=8, dim_mult=(1,), temporal_downsample=()
    ),
)  # fmt: skip
GIVEN = {"size": (80, 48), "character": [tiny.clip(1, 24, 40, seed=3)]}


def board() -> Timeline:
    """Texts that fade into each other, and a picture at its time."""
    cards = [
        {"at": 0, "text": "a red circle"},
        {"at": 0.125, "text": "blue", "soften": 0.1},
        {"at": 0.25, "image": tiny.clip(1, 48, 80)},
    ]
    return vjax.storyboard(cards, "a", frames=3, **GIVEN)


def moved() -> Timeline:
    """What moves from one text to another in a part of the picture."""
    region = np.zeros((3, 48, 80), np.uint8)
    region[:, :, 24:] = 255
    source = tiny.clip(3, 48, 80)
    return vjax.remix(source, "blue", source_prompt="a red circle", region=region, **GIVEN)


@pytest.mark.parametrize("verb", [board, moved])
def test_devices_make_of_verbs_in_tiles_what_one_makes(verb, monkeypatch):
    tiles = tiles_of(dataclasses.replace(MODEL, max_side=40), *GIVEN["size"])
    assert len(tiles) == 9
    tiles = dataclasses.replace(tiles, references=1)
    plan = dataclasses.replace(planning.plan(verb(), MODEL), tiles=tiles)
    mesh = MeshConfig(fsdp=2, context=2, tensor=2)
    pipes = [Pipeline(tiny.bundle(MODEL), mesh=layout) for layout in (None, mesh)]
    sampled = []

    def advance(condition, *rest):
        sampled.append(jax.eval_shape(lambda: condition))
        return stages.Stages.advance(pipes[0], condition, *rest)

    monkeypatch.setattr(pipes[0], "advance", advance)
    alone, shared = (pipe(plan, solver="euler").astype(int) for pipe in pipes)
    assert sampled[0] == rehearsal.video(MODEL, verb()).windows[0][0]  # as it is planned
    assert alone.std() > 10
    assert np.abs(shared - alone).max() <= 1
    assert (shared != alone).mean() < 0.01
