"""Batches for training, in an order that one number decides.

Update `i` of a run is a pure function of the config, the seed and `i`: which buckets it takes,
which clips they hold and how these are captioned. A run that stops and resumes, on any number of
hosts, therefore sees what an uninterrupted one sees, and the only state to save is the step.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from vjax import conditioning, world
from vjax.config import Bucket, ConfigError, DataConfig, RunConfig
from vjax.data.drawing import CAPTION, CLIP
from vjax.parallel import mesh as meshes
from vjax.tokenizer import Tokenizer
from vjax.training.plan import Plan, Update
from vjax.video import fitting

FAR = 1 << 40  # clips of the world from this index on are never trained on

Example = tuple[np.ndarray, str, str]  # frames uint8 [T H W 3], short caption, long caption
Source = Callable[[int, Bucket, float], Example]

CROP = 12  # what randomness is for: first in every seed, beside those of drawing


def make_source(config: DataConfig, seed: int, fps: float, held_out: bool = False) -> Source:
    """A function from a clip's index in the run to the clip, in the shape of a bucket.

    Its last argument is the share of clips that show one thing under a still camera.

    Args:
        held_out: of clips that training never sees, in any epoch.
    """
    if config.source == "world":

        def draw(index: int, bucket: Bucket, one_thing: float) -> Example:
            video, _, short, long = world.clip(
                (CLIP, seed, index + (FAR if held_out else 0)),
                frames=bucket.frames,
                height=bucket.height,
                width=bucket.width,
                fps=fps,
                one_thing=one_thing,
            )
            return video, short, long

        return draw
    if config.source.startswith("tfds:"):
        from vjax.data.datasets import stored_source

        stored = stored_source(config, seed, fps, held_out)
        return lambda index, bucket, one_thing: stored(index, bucket)
    raise ConfigError(f'Unknown data.source {config.source!r}: use "world" or "tfds:NAME".')


@dataclasses.dataclass(frozen=True)
class Batch:
    """One update's clips on this host: of each bucket of its group the arrays."""

    update: Update
    # video uint8 [B T H W 3]; with a tokenizer ids and mask [B S]; of a model that looks at images
    # those, uint8 [B I s s 3]
    parts: tuple[tuple[Bucket, dict[str, np.ndarray]], ...]


def batches(
    config: RunConfig,
    plan: Plan,
    *,
    tokenizer: Tokenizer | None,
    start: int,
    stop: int,
    caption_dropout: float = 0.0,
    own: Callable[[int], Sequence[int]] = range,
) -> Iterator[Batch]:
    """This host's part of updates `start` to `stop` - 1, prepared ahead of their use by threads.

    Args:
        tokenizer: of the captions; None where they do not matter.
        own: which clips of a batch of so many are this host's; all of them by default.
    """
    data, seed = config.data, config.seed
    source = make_source(data, seed, config.model.fps)
    for bucket in plan.buckets:
        own(bucket.batch)  # rather now than in a thread
    if data.source != "world" and any(stage.one_thing for stage in plan.stages):
        raise ConfigError("one_thing is a share of drawn clips; stored ones come as they are.")

    def make(step: int) -> Batch:
        update = plan[step]
        parts, first = [], update.first_clip
        for bucket in update.group.buckets:
            mine = [first + clip for clip in own(bucket.batch)]
            parts.append((bucket, part(mine, bucket, update.stage.one_thing)))
            first += bucket.batch
        return Batch(update, tuple(parts))

    def part(clips: Sequence[int], bucket: Bucket, one_thing: float) -> dict[str, np.ndarray]:
        videos, captions = [], []
        lead = bucket.lead * config.model.vae.temporal_ratio if bucket.lead else 0
        shape = dataclasses.replace(bucket, frames=bucket.frames + lead)
        for clip in clips:
            video, short, long = source(clip, shape, one_thing)
            rng = np.random.default_rng((CAPTION, seed, clip))
            text = long if rng.uniform() < data.long_captions else short
            captions.append("" if rng.uniform() < caption_dropout else text)
            if bucket.crop is not None:
                rng = np.random.default_rng((CROP, seed, clip))
                top = rng.integers(video.shape[1] - bucket.crop + 1)
                left = rng.integers(video.shape[2] - bucket.crop + 1)
                video = video[:, top : top + bucket.crop, left : left + bucket.crop]
            videos.append(video)
        arrays = {"video": np.stack(videos)}
        if (image := config.model.image) is not None:
            shown = conditioning.looked_at(config.model.dit, bucket.frames - 1)
            arrays["images"] = np.stack(
                [fitting.squares(video[shown], image.side) for video in videos]
            )
        if tokenizer is not None:
            arrays["ids"], arrays["mask"] = tokenizer(captions)
        return arrays

    import grain  # only where a run uses it

    options = grain.ReadOptions(
        num_threads=data.threads, prefetch_buffer_size=max(data.prefetch, data.threads)
    )
    return iter(grain.MapDataset.range(start, stop).map(make).to_iter_dataset(options))


class Stream:
    """The batches of a run as its updates ask for them, placed on the devices of a mesh."""

    def __init__(
        self,
        config: RunConfig,
        plan: Plan,
        mesh: Mesh,
        tokenizer: Tokenizer | None,
        caption_dropout: float = 0.0,
        start: int = 0,
    ):
        self.mesh, self.plan = mesh, plan
        self._batch: Batch | None = None  # that was waited for and not taken yet
        self._batches = functools.partial(
            batches,
            config,
            tokenizer=tokenizer,
            caption_dropout=caption_dropout,
            own=functools.partial(meshes.own_clips, mesh),
        )
        self._prepare(start)

    def wait(self, update: Update) -> None:
        """Returns when this host has its part of an update; updates come in their order."""
        if self._batch is None or _data(self._batch.update) != _data(update):
            self._batch = next(self._next)
        if _data(self._batch.update) != _data(update):  # it was prepared before the plan changed
            self._prepare(update.step)
            self._batch = next(self._next)

    def abstract(self, bucket: Bucket) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of a bucket's batch, of an update that was waited for."""
        sharding = meshes.split_batch(self.mesh)
        return {
            name: jax.ShapeDtypeStruct(
                (bucket.batch, *value.shape[1:]), value.dtype, sharding=sharding
            )
            for name, value in dict(self._batch.parts)[bucket].items()
        }

    def take(self, update: Update) -> list[tuple[Bucket, dict[str, jax.Array]]]:
        """Each bucket of an update with its batch."""
        self.wait(update)
        batch, self._batch = self._batch, None
        return [(bucket, meshes.place_batch(self.mesh, arrays)) for bucket, arrays in batch.parts]

    def _prepare(self, start: int) -> None:
        # Threads read a copy, so that the plan may change meanwhile.
        self._next = self._batches(copy.copy(self.plan), start=start, stop=self.plan.steps)

    def close(self) -> None:
        """Nothing is left behind."""


def _data(update: Update) -> tuple:
    return update.step, update.group, update.first_clip, update.stage.one_thing
