"""What reading a file gives, and what goes wrong with files."""

import dataclasses
import os
import pathlib
import tempfile

import numpy as np
from jaxtyping import UInt8

from vjax.reel import Reel
from vjax.video.sound import Sound

# Bytes of decoded frames: a long film should end in a message, not fill a machine.
MAX_BYTES = 4 << 30  # in memory
MAX_ASIDE = 16 << 30  # on the disk: a minute of 1080p at 40 frames a second
MAX_PIXELS = 1 << 26  # of a video's frame: twice as many as 8K has


class MediaError(ValueError):
    """A file that cannot be read or written; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """Frames at an even rate; a picture is one frame and has no rate.

    Args:
        frames: upright, square pixels, sRGB over black.
        fps: frame rate; None for a picture, and for a folder of pictures that names none.
        notes: what was done to the file's content, or is wrong with it: a sentence each.
        sound: what is heard from the first frame on; None where nothing is.
    """

    frames: UInt8[np.ndarray, "T H W 3"] | UInt8[Reel, "T H W 3"]
    fps: float | None
    notes: tuple[str, ...] = ()
    sound: Sound | None = None


def existing(path: str | os.PathLike) -> pathlib.Path:
    """The path of a file, or of a folder, that can be opened."""
    path = pathlib.Path(path)
    try:
        if path.is_dir():
            with os.scandir(path):
                return path
        if not path.exists():
            raise MediaError(f"{path} does not exist; check the name.")
        if not path.is_file():
            raise MediaError(f"{path} is not an ordinary file; give a video or a picture.")
        if path.stat().st_size == 0:
            raise MediaError(f"{path} is empty (zero bytes); make or download it again.")
        with path.open("rb"):
            pass
    except OSError as error:
        raise MediaError(f"{path} cannot be opened: {error.strerror}.") from error
    except ValueError as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{str(path)!r} is no name of a file.") from error  # a zero byte in it
    return path


def too_long(path: pathlib.Path, most: int) -> MediaError:
    return MediaError(
        f"{path} is too long to work on (over {most >> 30} GB decoded); "
        "cut it or make it smaller first."
    )


def no_room(path: pathlib.Path, error: OSError) -> MediaError:
    return MediaError(
        f"The frames of {path} could not be laid aside in {tempfile.gettempdir()}: "
        f"{error.strerror}. Make room there, or name another directory with TMPDIR."
    )


def too_large(path: pathlib.Path, width: int, height: int) -> MediaError:
    return MediaError(f"{path} has too many pixels ({width}x{height}); make it smaller first.")


def transparent(path: pathlib.Path) -> str:
    """The note on a file that is not opaque everywhere."""
    return f"{path} is transparent in parts: they are shown over black."


def broken(path: pathlib.Path, count: int, seconds: float, expected: float = 0) -> str:
    """The note on a file whose tail is damaged."""
    of = f" of {expected:.2f} s" if expected > seconds else ""
    frames = "1 frame" if count == 1 else f"{count} frames"
    return f"{path} is damaged: only {frames} ({seconds:.2f} s{of}) could be decoded and are used."
