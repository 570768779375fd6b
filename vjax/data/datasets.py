"""Stored clips: a tensorflow-datasets builder that writes ArrayRecord, and clips read back from it.

No TensorFlow is needed. Write the captioned world to disk, then train from it:

    python -m vjax.data.datasets --directory data --clips 10000
    python -m vjax.train configs/world_vae.py --data.source=tfds:captioned_world \
        --data.directory=data

Any tensorflow-datasets data set with the same features can take its place: `video` (uint8
[T H W 3]), `fps`, `short` and `long` (captions). A bucket of fewer frames takes a piece of a clip,
from anywhere in it, with the captions as they are: store clips whose captions hold for a piece, or
train on buckets of their whole length.
"""

import argparse
import hashlib
import json
import pathlib
import sys

import grain
import numpy as np
import tensorflow_datasets as tfds

from vjax import validation, world
from vjax.config import Bucket, ConfigError, DataConfig

HELD_OUT = ("held_out", "validation", "test")  # splits that are not trained on, the first there is


class CaptionedWorld(tfds.core.GeneratorBasedBuilder):
    """Clips of the captioned world with their facts, a training and a held-out split."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The vocabulary of vjax 0.1."}  # noqa: RUF012
    # Or it is looked for, in a package that `__main__` has none of.
    pkg_dir_path = pathlib.Path(__file__).parent

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

    @property
    def numbers(self) -> dict:
        """What decides the clips: the options, and what is drawn with them today."""
        frames, height, width = self.shape
        first, *_ = world.clip((0, 0), frames=frames, height=height, width=width, fps=self.fps)
        return {
            "clips": self.clips,
            "frames": frames,
            "height": height,
            "width": width,
            "fps": self.fps,
            "first_clip": hashlib.sha256(first.tobytes()).hexdigest()[:16],
        }

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            metadata=tfds.core.MetadataDict(self.numbers),
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
                    "facts": json.dumps(validation.to_dict(facts)),
                },
            )


def write_world(directory: str, **options) -> pathlib.Path:
    """Writes the captioned world as ArrayRecord files below `directory`; returns where.

    Clips that are there already are kept, where they are the same.

    Raises:
        ConfigError: other clips are there.
    """
    builder = CaptionedWorld(data_dir=directory, **options)
    path = pathlib.Path(builder.data_dir)
    if path.exists():
        there = path / "metadata.json"
        before = json.loads(there.read_text()) if there.is_file() else {}
        other = [
            f"{name} was {before.get(name, 'not written down')} and is {value}"
            for name, value in builder.numbers.items()
            if before.get(name) != value
        ]
        if other:
            raise ConfigError(
                f"{path} holds other clips than these: {'; '.join(other)}. Remove it, or write to "
                "another --directory."
            )
    builder.download_and_prepare()
    return path


def find_prepared(name: str, directory: str) -> pathlib.Path:
    """Where the newest version of a prepared data set is.

    Raises:
        ConfigError: there is no such data set in the directory.
    """
    found = pathlib.Path(directory).glob(f"{name}/**/dataset_info.json")
    versions = [file.parent for file in found if tfds.core.Version.is_valid(file.parent.name)]
    if not versions:
        raise ConfigError(
            f"There is no prepared data set {name!r} in {directory!r}: write one with "
            "`python -m vjax.data.datasets`, or set data.directory to where it is."
        )
    return max(versions, key=lambda path: (tfds.core.Version(path.name), path))


def fingerprint(config: DataConfig) -> str:
    """Which clips a config reads: a hash of the data set's own description."""
    path = find_prepared(config.source.removeprefix("tfds:"), config.directory or ".")
    return hashlib.sha256((path / "dataset_info.json").read_bytes()).hexdigest()[:16]


def training_and_held_out(name: str, directory: str) -> tuple[grain.MapDataset, grain.MapDataset]:
    """The clips to train on, and those that training never draws.

    A data set that comes without a split of its own for the second gives up a part of its training
    split: a twentieth, at least one clip.

    Raises:
        ConfigError: there is nothing that could be held out.
    """
    builder = tfds.builder_from_directory(find_prepared(name, directory))
    training = grain.MapDataset.source(builder.as_data_source("train"))
    for split in HELD_OUT:
        if split in builder.info.splits and builder.info.splits[split].num_examples:
            return training, grain.MapDataset.source(builder.as_data_source(split))
    rest = len(training) - max(len(training) // 20, 1)
    if rest < 1:
        raise ConfigError(f"{name} has {len(training)} clips: too few to hold one out of training.")
    return training[:rest], training[rest:]


def stored_source(config: DataConfig, seed: int, fps: float, held_out: bool = False):
    """Clips of a data set in a global order that is shuffled anew each epoch.

    Args:
        held_out: take the clips that training never draws instead, in their own order.
    """
    from vjax import video as media

    name = config.source.removeprefix("tfds:")
    training, others = training_and_held_out(name, config.directory or ".")
    dataset = others.repeat() if held_out else training.seed(seed).shuffle().repeat()

    def read(index: int, bucket: Bucket):
        record = dataset[index]
        video = np.asarray(record["video"])
        video = media.resample(video, float(record["fps"]), fps)
        if len(video) < bucket.frames:
            raise ConfigError(
                f"A clip of {name} has {len(video)} frames at {fps:g} fps, too few for a "
                f"bucket of {bucket.frames}: leave out the buckets that are longer."
            )
        rng = np.random.default_rng((3, seed, index))
        start = int(rng.integers(len(video) - bucket.frames + 1))
        video = media.fit(video[start : start + bucket.frames], bucket.width, bucket.height)
        return video, _text(record["short"]), _text(record["long"])

    return read


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vjax.data.datasets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--directory", default="data", help="where data sets are kept (data)")
    for name, default, what in (
        ("clips", 1000, "to draw for training; a twentieth more is held out"),
        ("frames", 33, "of each clip"),
        ("height", 128, "in pixels"),
        ("width", 128, "in pixels"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    options = vars(parser.parse_args(arguments))
    try:
        print(write_world(options.pop("directory"), **options))
    except ConfigError as error:
        print(f"vjax.data.datasets: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
