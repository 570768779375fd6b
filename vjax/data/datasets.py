"""Stored clips: a tensorflow-datasets builder that writes ArrayRecord, and clips read back from it.

No TensorFlow is needed. Write the captioned world to disk, then train from it:

    python -m vjax.data.datasets --directory data --clips 10000
    python -m vjax.train configs/world_vae.py --data.source=tfds:captioned_world \
        --data.directory=data

Any tensorflow-datasets data set with the same features can take its place: `video` (uint8
[T H W 3]), `fps`, `short` and `long` (captions).
"""

import argparse
import json
import pathlib
import sys

import grain
import numpy as np
import tensorflow_datasets as tfds

from vjax import config as configs
from vjax import world
from vjax.config import Bucket, ConfigError, DataConfig


class CaptionedWorld(tfds.core.GeneratorBasedBuilder):
    """Clips of the captioned world with their facts, a training and a held-out split."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The vocabulary of vjax 0.1."}  # noqa: RUF012

    def __init__(
        self,
        *,
        clips: int = 1000,
        frames: int = 33,
        height: int = 128,
        width: int = 128,
        fps: float = 16.0,
        **options,
    ):
        self.clips, self.shape, self.fps = clips, (frames, height, width), fps
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "video": tfds.features.Tensor(
                        shape=(*self.shape, 3),
                        dtype=np.uint8,
                        encoding=tfds.features.Encoding.ZLIB,
                    ),
                    "fps": tfds.features.Scalar(np.float32),
                    "short": tfds.features.Text(),
                    "long": tfds.features.Text(),
                    "facts": tfds.features.Text(doc="JSON of `vjax.world.Facts`"),
                }
            ),
            description="Short clips of simple things that move, with exact facts and captions.",
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples("train", self.clips),
            "held_out": self._generate_examples("held_out", max(self.clips // 20, 1)),
        }

    def _generate_examples(self, split: str, count: int):
        frames, height, width = self.shape
        for index in range(count):
            video, facts, short, long = world.clip(
                (0, index) if split == "train" else (1, index),
                frames=frames,
                height=height,
                width=width,
                fps=self.fps,
                split=split,
            )
            yield (
                index,
                {
                    "video": video,
                    "fps": self.fps,
                    "short": short,
                    "long": long,
                    "facts": json.dumps(configs.to_dict(facts)),
                },
            )


def write_world(directory: str, **options) -> pathlib.Path:
    """Writes the captioned world as ArrayRecord files below `directory`; returns where."""
    builder = CaptionedWorld(data_dir=directory, **options)
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)


def read_clips(name: str, directory: str, split: str = "train"):
    """A random-access source of a prepared data set's examples, for grain.

    Raises:
        ConfigError: there is no such data set in the directory.
    """
    versions = sorted(pathlib.Path(directory).glob(f"{name}/**/dataset_info.json"))
    if not versions:
        raise ConfigError(
            f"There is no prepared data set {name!r} in {directory!r}: write one with "
            "`python -m vjax.data.datasets`, or set data.directory to where it is."
        )
    return tfds.builder_from_directory(versions[-1].parent).as_data_source(split)


def stored_source(config: DataConfig, seed: int):
    """Clips of a data set in a global order that is shuffled anew each epoch."""
    from vjax import video as media

    name = config.source.removeprefix("tfds:")
    clips = read_clips(name, config.directory or ".")
    dataset = grain.MapDataset.source(clips).seed(seed).shuffle().repeat()

    def read(index: int, bucket: Bucket):
        record = dataset[index]
        video = np.asarray(record["video"])
        video = media.resample(video, float(record["fps"]), config.fps)
        if len(video) < bucket.frames:
            raise ConfigError(
                f"A clip of {name} has {len(video)} frames at {config.fps:g} fps, too few for a "
                f"bucket of {bucket.frames}: leave out the buckets that are longer."
            )
        rng = np.random.default_rng((seed, index, 3))
        start = int(rng.integers(len(video) - bucket.frames + 1))
        video = media.fit(video[start : start + bucket.frames], bucket.width, bucket.height)
        return video, _text(record["short"]), _text(record["long"])

    return read


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m vjax.data.datasets", description=__doc__)
    parser.add_argument("--directory", default="data", help="where data sets are kept (data)")
    for name, default in (("clips", 1000), ("frames", 33), ("height", 128), ("width", 128)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"({default})")
    options = vars(parser.parse_args(arguments))
    print(write_world(options.pop("directory"), **options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
