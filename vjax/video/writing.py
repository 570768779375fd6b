"""Frames as they are made, to a file that appears whole."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from vjax.video import animations, encoders, formats, placing
from vjax.video.clip import MediaError
from vjax.video.metadata import comment_of
from vjax.video.sound import Sound

_ENCODERS = {
    ".mp4": encoders.mp4,
    ".webm": encoders.webm,
    ".mkv": encoders.mkv,
    ".gif": animations.gif,
    ".webp": animations.webp,
    ".png": encoders.png,
    "": encoders.folder,
}


class Writer:
    """Writes a video, an animation or pictures, by suffix, while its frames are made.

        with Writer("clip.mp4", 16, (160, 160)) as writer:
            for frames in pipe.stream(timeline):
                writer.add(frames)

    The file appears under its name when the block ends, and not at all when it ends in an error or
    is interrupted. Where something has taken the name by then, a number is added: `path` says where
    the file is. Memory does not grow with its length. What kind of file it is, and what that
    can hold, is said in `vjax.video.formats`.

    Args:
        path: what to write. It may not exist yet, unless `overwrite`.
        fps: frame rate; None for a png.
        size: (width, height), where it is known before the first frames are.
        metadata: settings to store in the file, for `read_metadata`: anything that JSON can hold.
        quality: 1 to 100, for mp4, webm and webp; high (or lossless) by default.
        sound: what is heard from the first frame on. It ends with the frames, if not before.
        overwrite: replace what is there.

    Raises:
        MediaError: unknown suffix, something is there already, an unwritable or full disk, no
            frames, or frames, a rate or a size that this kind of file cannot have.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: float | None,
        size: tuple[int, int] | None = None,
        *,
        metadata: dict | None = None,
        quality: int | None = None,
        sound: Sound | None = None,
        overwrite: bool = False,
    ):
        self.path, self.fps, self.size = pathlib.Path(path), fps, size and (size[0], size[1])
        self.quality, self.sound, self.overwrite = quality, sound, overwrite
        self.kind = formats.kind(path)
        if fps is None and self.kind not in ("", ".png"):
            raise MediaError(f"A {self.kind} needs a frame rate; give fps.")
        rate = {"fps": fps} if self.kind == "" and fps is not None else {}
        self.comment = comment_of(metadata, **rate)
        self.notes = formats.check_writable(path, overwrite=overwrite, **self._content())
        self.count = 0
        self._exit = contextlib.ExitStack()
        self._encode: Callable | None = None

    def _content(self) -> dict:
        heard = self.sound is not None
        return {"fps": self.fps, "size": self.size, "quality": self.quality, "sound": heard}

    def __enter__(self) -> "Writer":
        with self._trouble():
            self._temporary = self._exit.enter_context(
                placing.placed(
                    self.path, self._moved, overwrite=self.overwrite, folder=self.kind == ""
                )
            )
        return self

    def add(self, frames: np.ndarray) -> None:
        """Writes the next frames, uint8 [T H W 3], all of one size."""
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise MediaError(
                "Frames to write must be uint8 [T, H, W, 3], got "
                f"{frames.dtype} {list(frames.shape)}."
            )
        if not frames.size:
            return
        size = frames.shape[2], frames.shape[1]
        if self.size is None:
            self.size = size
        if size != self.size:
            raise MediaError(
                f"{self.path} is of {self.size[0]}x{self.size[1]} pixels; frames of "
                f"{size[0]}x{size[1]} do not fit in."
            )
        self.notes = formats.limits(self.path, frames=self.count + len(frames), **self._content())
        with self._trouble():
            if self._encode is None:
                self._encode = self._exit.enter_context(_ENCODERS[self.kind](self._job()))
            for frame in np.ascontiguousarray(frames):
                self._encode(frame)
        self.count += len(frames)

    def _moved(self, path: pathlib.Path) -> None:
        self.path = path

    def _job(self) -> encoders.Job:
        return encoders.Job(
            self._temporary,
            Fraction(self.fps or 1).limit_denominator(10_000),
            self.size,
            self.comment,
            self.quality,
            self.sound if formats.FORMATS[self.kind].sound else None,
        )

    def __exit__(self, kind, error, trace) -> None:
        empty = kind is None and not self.count
        if empty:
            kind, error = MediaError, MediaError(f"There are no frames to write to {self.path}.")
        with self._trouble():
            self._exit.__exit__(kind, error, trace)
        if empty:
            raise error

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise placing.unwritable(self.path, error) from error


def write(
    path: str | os.PathLike,
    frames: np.ndarray,
    fps: float | None,
    *,
    metadata: dict | None = None,
    quality: int | None = None,
    sound: Sound | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Writes all frames, uint8 [T H W 3], of a video or pictures at once, as `Writer` does.

    Returns:
        What the file does not hold as given: a sentence each.
    """
    options: dict = {"quality": quality, "sound": sound, "overwrite": overwrite}
    with Writer(path, fps, metadata=metadata, **options) as writer:
        writer.add(frames)
    return writer.notes
