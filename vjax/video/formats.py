"""What each kind of file can hold: asked before any work is done.

suffix   pixels                                                     sound
.mp4     h264; nearly as given, colour at half the resolution       AAC
.webm    vp9; nearly as given, colour at half the resolution        Opus
.mkv     FFV1; exactly as given                                     FLAC
.gif     as given up to 255 colours in the clip, dithered above     none
.webp    exactly as given, unless a quality is asked for            none
.png     exactly as given, one frame                                none
none     a folder of numbered png; exactly as given                 none
"""

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Sequence

from vjax.video import placing
from vjax.video.clip import MediaError
from vjax.video.timing import check_fps


@dataclasses.dataclass(frozen=True)
class Format:
    """What a kind of file can hold.

    Args:
        max_fps: browsers slow down gif and webp frames that are shorter than that.
        max_side: pixels.
        exact: whether the very pixels come back.
        quality: whether there is one to choose.
        sound: its codec; None where there can be none.
    """

    max_fps: float
    max_side: int
    exact: bool
    quality: bool
    sound: str | None


FORMATS = {
    ".mp4": Format(240, 16384, exact=False, quality=True, sound="aac"),
    ".webm": Format(240, 16384, exact=False, quality=True, sound="libopus"),
    ".mkv": Format(1000, 32768, exact=True, quality=False, sound="flac"),
    ".gif": Format(50, 65535, exact=False, quality=False, sound=None),
    ".webp": Format(90, 16383, exact=True, quality=True, sound=None),
    ".png": Format(math.inf, 65535, exact=True, quality=False, sound=None),
    "": Format(math.inf, 65535, exact=True, quality=False, sound=None),
}
_CLOCKS = {".gif": "hundredths", ".webp": "thousandths"}


def kind(path: str | os.PathLike) -> str:
    """The key in `FORMATS` of a file to write.

    Raises:
        MediaError: the suffix is none of them.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    bare = path.name.startswith(".") and not suffix  # such as ".mp4"
    if suffix not in FORMATS or not path.name or bare:
        kinds = ", ".join(filter(None, FORMATS))
        raise MediaError(
            f"{path} must end in one of {kinds} to say what kind of file to write, "
            "or have no ending for a folder of pictures."
        )
    return suffix


def is_exact(path: str | os.PathLike, quality: int | None = None) -> bool:
    """Whether a file of this name gives back the very pixels that are written to it."""
    form = FORMATS[kind(path)]
    return form.exact and not (form.quality and quality is not None)


def holds_sound(path: str | os.PathLike) -> bool:
    """Whether a file of this name can have sound."""
    return FORMATS[kind(path)].sound is not None


def check_writable(
    path: str | os.PathLike,
    *,
    frames: int | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    quality: int | None = None,
    sound: bool = False,
    overwrite: bool = False,
    inputs: Sequence[str | os.PathLike] = (),
) -> list[str]:
    """Whether `write` can write this here: to be called before any heavy work.

    Args:
        path: what is to be written.
        frames: how many; None where that is not known yet, as for all that follows.
        fps: frame rate.
        size: width and height.
        quality: 1 to 100, as in `write`.
        sound: whether there is any.
        overwrite: whether an existing file may be replaced.
        inputs: files that are read for it, and so are never replaced.

    Returns:
        What the file will not hold as given: a sentence each.

    Raises:
        MediaError: it cannot be written.
    """
    notes = limits(path, frames=frames, fps=fps, size=size, quality=quality, sound=sound)
    _check_place(pathlib.Path(path), kind(path), overwrite, inputs)
    return notes


def limits(
    path: str | os.PathLike,
    *,
    frames: int | None = None,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    quality: int | None = None,
    sound: bool = False,
) -> list[str]:
    """The part of `check_writable` that is about the kind of file, not about the place."""
    suffix = kind(path)
    form = FORMATS[suffix]
    article = "An" if suffix in (".mp4", ".mkv") else "A"
    name = f"{article} {suffix[1:]}" if suffix else "A folder of pictures"
    notes = []
    if frames is not None:
        if frames < 1:
            raise MediaError(f"There are no frames to write to {path}.")
        if suffix == ".png" and frames > 1:
            raise MediaError(
                f"A png holds one frame and this clip has {frames}; ask for one frame, name the "
                "file .mp4, .gif or .webp, or give no ending for a folder of pictures."
            )
    if fps is not None:
        check_fps(fps)
        if fps > form.max_fps:
            raise MediaError(
                f"{name} plays at most {form.max_fps:g} frames a second, got {fps:g}; "
                "ask for fewer, or name the file .mp4."
            )
        if suffix in _CLOCKS and not float(fps).is_integer():
            notes.append(
                f"{name} counts {_CLOCKS[suffix]} of a second: {fps:.6g} frames a second are right "
                "on average, but may be read as a rate near that."
            )
    if size is not None:
        width, height = size
        if min(size) < 1 or max(size) > form.max_side:
            raise MediaError(f"{name} is 1 to {form.max_side} pixels a side, got {width}x{height}.")
        if suffix == ".mp4" and (width % 2 or height % 2):
            even = f"{width + width % 2}x{height + height % 2}"
            notes.append(
                f"An mp4 has even sizes: {width}x{height} becomes {even}, with the last column or "
                "row twice."
            )
    if quality is not None:
        if not 1 <= quality <= 100:
            raise MediaError(f"The quality is 1 to 100, got {quality}.")
        if not form.quality:
            how = "keeps every pixel" if form.exact else "has no quality to choose"
            notes.append(f"{name} {how}: the quality of {quality} changes nothing.")
    if sound and form.sound is None:
        notes.append(f"{name} has no sound: name the file .mp4, .webm or .mkv to keep it.")
    return notes


def _check_place(path: pathlib.Path, suffix: str, overwrite: bool, inputs) -> None:
    if "\0" in str(path):
        raise MediaError(f"{str(path)!r} is no name of a file.")
    try:
        for other in inputs:
            real, place = (pathlib.Path(os.path.realpath(file)) for file in (other, path))
            if real.is_relative_to(place) or (
                path.exists() and os.path.exists(other) and os.path.samefile(path, other)
            ):
                raise MediaError(
                    f"{path} is an input, or holds one, and is never replaced; choose another name."
                )
        if not path.parent.is_dir():
            raise MediaError(f"The directory {path.parent} does not exist; make it first.")
        if path.is_dir():
            if suffix:
                raise MediaError(f"{path} is a directory; name a file in it.")
            _check_folder(path, overwrite)
        elif path.exists():
            if not suffix:
                raise MediaError(f"{path} is a file; choose another name for a folder.")
            if not overwrite:
                raise placing.taken(path)
            if not (path.is_file() and os.access(path, os.W_OK)):
                raise MediaError(f"{path} exists and may not be overwritten; choose another name.")
        # Permissions say too little (root, read-only and full disks): try it with a small file.
        with placing.beside(path) as trial:
            trial.write_bytes(bytes(1 << 16))
    except OSError as error:
        raise placing.unwritable(path, error) from error


def _check_folder(path: pathlib.Path, overwrite: bool) -> None:
    names = sorted(os.listdir(path))
    if names and not overwrite:
        raise placing.taken(path)
    if other := [name for name in names if not re.fullmatch(r"\d+\.png", name)]:
        raise MediaError(
            f"{path} holds more than numbered pictures ({other[0]}) and is not replaced; "
            "choose another name."
        )
