"""Wan's autoencoders, whose layers have the names that diffusers gives them, but for a few."""

import re

import jax

from vjax import models
from vjax.config import VAEConfig

_2D = r"resample|attentions"  # convolutions over single frames
TURNS = {
    rf"({_2D}).*kernel$": "o i h w -> 1 h w i o",
    r"kernel$": "o i t h w -> t h w i o",
    r"attentions.*gamma$": "c 1 1 -> c",
    r"gamma$": "c 1 1 1 -> c",
}


def names(config: VAEConfig) -> dict[str, str]:
    """The published name of each layer, and ours."""
    found = {}
    for path, _ in jax.tree.leaves_with_path(models.abstract(config)):
        ours = ".".join(str(key.key) for key in path[:-1])
        theirs = ours.replace("resample", "resample.1")
        if config.residual:  # what lies within a stage has other names there
            blocks = config.num_res_blocks
            theirs = theirs.replace("upsamplers.0", "upsampler")
            theirs = theirs.replace(f".layers.{blocks}.", ".downsampler.")
            theirs = re.sub(r"\.layers\.(\d+)\.", r".resnets.\1.", theirs)
        found[theirs] = ours
    return found
