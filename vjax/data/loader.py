"""Batches for training, in an order that one number decides.

Batch `i` of a run is a pure function of the config, the seed and `i`: which bucket it is, which
clips it holds and how they are captioned. A run that stops and resumes, on any number of hosts,
therefore sees what an uninterrupted one sees, and the only state to save is the step.
"""

import dataclasses
from collections.abc import Callable, Iterator

import grain
import numpy as np

from vjax import world
from vjax.config import Bucket, ConfigError, DataConfig
from vjax.tokenizer import Tokenizer

PERIOD = 1000  # steps after which the sequence of buckets starts again
FAR = 1 << 40  # clips of the world from this index on are never trained on

Example = tuple[np.ndarray, str, str]  # frames uint8 [T H W 3], short caption, long caption
Source = Callable[[int, Bucket], Example]


class Schedule:
    """Which bucket each step takes, and how many clips all the steps before it took."""

    def __init__(self, buckets: tuple[Bucket, ...], seed: int):
        if not buckets:
            raise ConfigError("A run needs at least one bucket in data.buckets.")
        weights = np.array([bucket.weight for bucket in buckets])
        rng = np.random.default_rng((seed, 17))
        # Every bucket gets its exact share, in an order that is shuffled once.
        counts = np.diff(np.round(np.cumsum(np.append(0, weights)) / weights.sum() * PERIOD))
        order = rng.permutation(np.repeat(np.arange(len(buckets)), counts.astype(int)))
        self.buckets = [buckets[i] for i in order]
        self._before = np.cumsum([0] + [bucket.batch for bucket in self.buckets])

    def __getitem__(self, step: int) -> Bucket:
        return self.buckets[step % PERIOD]

    def clips_before(self, step: int) -> int:
        """The number of clips that steps 0 to `step` - 1 take together."""
        periods, rest = divmod(step, PERIOD)
        return int(periods * self._before[-1] + self._before[rest])


def make_source(config: DataConfig, seed: int, held_out: bool = False) -> Source:
    """A function from a clip's index in the run to the clip, in the shape of a bucket.

    Args:
        held_out: of clips that training never sees, in any epoch.
    """
    if config.source == "world":

        def draw(index: int, bucket: Bucket) -> Example:
            video, _, short, long = world.clip(
                (seed, index + (FAR if held_out else 0)),
                frames=bucket.frames,
                height=bucket.height,
                width=bucket.width,
                fps=config.fps,
            )
            return video, short, long

        return draw
    if config.source.startswith("tfds:"):
        from vjax.data.datasets import stored_source

        return stored_source(config, seed, held_out)
    raise ConfigError(f'Unknown data.source {config.source!r}: use "world" or "tfds:NAME".')


@dataclasses.dataclass(frozen=True)
class Batch:
    """One step's clips on this host."""

    step: int
    bucket: Bucket
    arrays: dict[str, np.ndarray]  # video uint8 [B T H W 3]; with a tokenizer ids and mask [B S]


def batches(
    config: DataConfig,
    *,
    seed: int,
    tokenizer: Tokenizer | None,
    start: int,
    stop: int,
    caption_dropout: float = 0.0,
    process: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """This host's part of batches `start` to `stop` - 1, prepared ahead of their use by threads.

    Args:
        tokenizer: of the captions; None where they do not matter.
        process: this host's index and the number of hosts, which share every batch evenly.
    """
    schedule = Schedule(config.buckets, seed)
    source = make_source(config, seed)
    index, count = process
    for bucket in config.buckets:
        if bucket.batch % count:
            raise ConfigError(
                f"A batch of {bucket.batch} clips cannot be shared by {count} hosts: make the "
                f"batch of every bucket a multiple of {count}."
            )

    def make(step: int) -> Batch:
        bucket = schedule[step]
        share = bucket.batch // count
        first = schedule.clips_before(step) + index * share
        videos, captions = [], []
        for clip in range(first, first + share):
            video, short, long = source(clip, bucket)
            rng = np.random.default_rng((seed, clip, 2))
            text = long if rng.uniform() < config.long_captions else short
            captions.append("" if rng.uniform() < caption_dropout else text)
            if bucket.crop is not None:
                top = rng.integers(video.shape[1] - bucket.crop + 1)
                left = rng.integers(video.shape[2] - bucket.crop + 1)
                video = video[:, top : top + bucket.crop, left : left + bucket.crop]
            videos.append(video)
        arrays = {"video": np.stack(videos)}
        if tokenizer is not None:
            arrays["ids"], arrays["mask"] = tokenizer(captions)
        return Batch(step, bucket, arrays)

    options = grain.ReadOptions(
        num_threads=config.threads, prefetch_buffer_size=max(config.prefetch, config.threads)
    )
    return iter(grain.MapDataset.range(start, stop).map(make).to_iter_dataset(options))
