"""A video made without networks: which programs make it, and with what shapes.

`vjax.rollout` runs as it does to make one, with zeros in place of what networks would return.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vjax import conditioning, weights
from vjax.config import ConfigError, ModelConfig
from vjax.method import Method
from vjax.pipeline import Pipeline
from vjax.planning import Plan
from vjax.sampler import Condition
from vjax.timeline import RequestError, Timeline


@dataclasses.dataclass(frozen=True)
class Video:
    """What a video asks of the networks.

    Args:
        windows: the shapes of each kind of condition, and how many windows are made under it.
        texts: that are embedded, two at a time.
        looked: how often so many images are looked at.
        encoded: latents, by their height and width and the type of the frames.
        decoded: latents, by their height and width.
        dtype, int8: as in `Stages`.
    """

    method: Method
    windows: tuple[tuple[Condition, int], ...]
    texts: int
    looked: Mapping[int, int]
    encoded: Mapping[tuple[int, int, np.dtype], int]
    decoded: Mapping[tuple[int, int], int]
    dtype: str = "bfloat16"
    int8: bool = False

    @property
    def guided(self) -> bool:
        return self.method.config.guided


def video(model: ModelConfig, timeline: Timeline, **sampling: Any) -> Video:
    """What the video of a timeline asks for.

    Args:
        sampling: as for `Pipeline.check`.

    Raises:
        ConfigError: a network is missing.
        RequestError: the model does not make such a video.
    """
    for name in weights.NETWORKS:
        if getattr(model, name) is None:
            raise ConfigError(f"{model.name} has no {name}, so it cannot make videos.")
    stage = _Rehearsal(model)
    plan, method = stage.check(timeline, **sampling)
    return stage.made(plan, method)


class _Rehearsal(Pipeline):
    def __init__(self, model: ModelConfig):
        self.config, self.tokenizer, self.mesh = model, None, None
        self._room = math.inf  # programs.sampling is told of the device
        self._side, self._ratio = model.vae.spatial_ratio, model.vae.temporal_ratio
        self._embedded = 0
        self._looked: collections.Counter = collections.Counter()
        self._windows: collections.Counter = collections.Counter()
        self._encoded: collections.Counter = collections.Counter()
        self._decoded: collections.Counter = collections.Counter()

    def made(self, plan: Plan, method: Method) -> Video:
        texts = [self._texts(plan)]
        for segment in plan.segments:
            for _ in self._segment([plan], segment, texts, [0], method, None, 0, None, None):
                pass
        if not self._windows:
            raise RequestError("Every frame is given: nothing is made that could be planned.")
        windows = [
            (jax.tree.unflatten(kind, leaves), count)
            for (kind, leaves), count in self._windows.items()
        ]
        counted = (self._embedded, self._looked, self._encoded, self._decoded)
        return Video(method, tuple(windows), *counted)

    def _check_memory(self, plan, method):
        pass  # that is what the compiler is asked

    def embed(self, prompts):
        self._embedded += len(prompts)
        text = self.config.text
        return jnp.zeros((len(prompts), text.max_length, text.width))

    def look(self, images):
        image = self.config.image
        self._looked[len(images)] += 1
        return np.zeros((len(images) * image.tokens, image.width), np.float32)

    def encode_pixels(self, frames):
        sides = tuple(side // self._side for side in frames.shape[1:3])
        count = 1 + (len(frames) - 1) // self._ratio
        self._encoded[*sides, frames.dtype] += count
        return np.zeros((count, *sides, self.config.vae.z_dim), np.float32)

    def decode_next(self, latents, past):
        self._decoded[latents.shape[2:4]] += 1
        count = 1 if past is None else self._ratio
        return jnp.zeros((1, count, 1, 1, 3), jnp.uint8), "the past"  # nobody looks at them

    def _sample(self, condition, seeds, window, method, watched, noise):
        if conditioning.one_time(self.config):
            condition = dataclasses.replace(condition, noise=condition.source)
        shapes = jax.eval_shape(lambda: condition)
        if condition.origin is not None:
            keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
            shapes = dataclasses.replace(
                shapes, origin=dataclasses.replace(shapes.origin, keys=keys)
            )
        leaves, kind = jax.tree.flatten(shapes)
        self._windows[kind, tuple(leaves)] += 1
        return np.zeros(condition.source.shape, np.float32)
