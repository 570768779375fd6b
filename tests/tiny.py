"""A model small enough to build and run in a moment: random weights, every part in place."""

import dataclasses
import functools

import jax
import numpy as np

from vjax import models, weights
from vjax.config import DiTConfig, ModelConfig, SamplerConfig, TextConfig, VAEConfig
from vjax.data import tokenizer as tokenizers
from vjax.tokenizer import Tokenizer

MODEL = ModelConfig(
    name="tiny",
    dit=DiTConfig(
        width=16,
        depth=2,
        heads=2,
        head_dim=8,
        ffn=32,
        in_channels=4,
        out_channels=4,
        patch=(1, 1, 1),
        text_width=16,
        frequency_dim=16,
        anchors=True,
        remat=False,
    ),
    vae=VAEConfig(
        base_dim=4,
        z_dim=4,
        dim_mult=(1, 1, 1),
        num_res_blocks=1,
        temporal_downsample=(True, True),
        patch_size=2,
        mid_attention=False,
        latents_mean=(0.1, -0.1, 0.2, 0.0),
        latents_std=(0.5, 0.6, 0.7, 0.8),
    ),
    text=TextConfig(vocab=259, width=16, depth=1, heads=2, head_dim=8, ffn=32, max_length=32),
    fps=8,
    frames=9,
    height=32,
    width=32,
    max_frames=17,
    min_side=16,
    max_side=64,
    sampler=SamplerConfig(solver="unipc", steps=2, guidance=2.0, shift=1.0),
    vocabulary=("a", "red", "blue", "circle", "moves", "right"),
)


# Every byte is a token.
BYTES = tokenizers.learn([], vocab=259)


def tokenizer(length: int = 32) -> Tokenizer:
    """Bytes as tokens, cut and padded to a length."""
    return Tokenizer(BYTES, dataclasses.replace(MODEL.text, max_length=length))


def bundle(model: ModelConfig = MODEL) -> weights.Bundle:
    """The tiny model with random parameters."""
    text = Tokenizer(BYTES, model.text) if model.text else None
    return weights.Bundle(model, params(model), text)


@functools.cache
def params(model: ModelConfig = MODEL) -> models.Params:
    """Random parameters in which nothing is zero, so that every input matters."""

    rng = np.random.default_rng(0)

    def draw(path, leaf):
        normal = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key in ("scale", "gamma"):
            return 1 + 0.1 * normal
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[-2:-1] if leaf.ndim < 4 else leaf.shape[:-1])
            return normal / np.sqrt(fan_in, dtype=np.float32)
        return 0.1 * normal

    networks = {name: getattr(model, name) for name in ("dit", "vae", "text", "image")}
    shapes = {name: models.abstract(config) for name, config in networks.items() if config}
    return jax.tree.map_with_path(draw, shapes)


def model(**changes) -> ModelConfig:
    """The tiny model with some fields changed."""
    return dataclasses.replace(MODEL, **changes)


def of_default_shape() -> ModelConfig:
    """What makes the videos that the default model makes, as fast as can be."""
    names = ("fps", "frames", "height", "width", "max_frames", "min_side", "max_side", "vocabulary")
    default = weights.read_config("default")
    return model(
        dit=dataclasses.replace(MODEL.dit, depth=1, patch=(1, 2, 2)),
        vae=dataclasses.replace(MODEL.vae, patch_size=8, spatial_downsample=(False, False)),
        **{name: getattr(default, name) for name in names},
    )


def clip(frames: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    """Smooth frames, all different."""
    time = np.arange(frames)[:, None, None, None]
    row, column = np.arange(height)[None, :, None, None], np.arange(width)[None, None, :, None]
    channel = np.arange(3)[None, None, None]
    wave = np.sin(0.3 * time + 0.2 * row + 0.1 * column * (1 + channel) + seed)
    return np.rint(127.5 + 120 * wave).astype(np.uint8)
