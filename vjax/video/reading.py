"""Any video, animation, picture or folder of numbered pictures, as a clip."""

import contextlib
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vjax.reel import Spool
from vjax.video import clip as clips
from vjax.video import metadata, pictures, streams
from vjax.video.clip import Clip, MediaError
from vjax.video.timing import even_rate, on_clock

LONGEST_SOUND = 3600  # seconds: 700 MB at most, as a rule

Size = tuple[int, int]  # width, height


def read(
    path: str | os.PathLike,
    *,
    size: Size | Callable[[int, int], Size] | None = None,
    seconds: tuple[float, float] | None = None,
    frames: int | None = None,
    sound: bool = True,
    layer: str = "shown",
    aside: bool = False,
) -> Clip:
    """Reads any video, animation or picture, or a folder of pictures in the order of their numbers.

    A variable frame rate becomes the lowest even rate that shows each frame at its own time; where
    none does, each is shown at the nearest time. Rotation, non-square pixels, EXIF orientation and
    colour profiles are applied, high dynamic range is mapped to that of a screen, half frames are
    made whole. The clip's notes say what was done that is not a matter of course.

    Args:
        path: the file; its content decides what it is, not its suffix.
        size: (width, height) to `fit` each frame to while it is read, so that memory follows the
            result; or what gives it, called with the width and height that the file has.
        seconds: read only what begins between these two; the second may be infinite.
        frames: read at most so many.
        sound: whether to read sound too.
        layer: of pictures and animations, see `pictures.open_picture`.
        aside: the frames are laid aside on the disk, where they are many, and the clip's are a
            `Reel`: memory does not grow with their number.

    Raises:
        MediaError: nothing can be decoded, or there is no room to lay it aside. Of a file with a
            damaged tail, what comes before it is returned, with a note.
    """
    path = clips.existing(path)
    begin, until = seconds or (0.0, math.inf)
    if not 0 <= begin < until:
        raise MediaError(f"Seconds {begin:g} to {until:g} of {path} are no stretch of time.")
    if frames is not None and frames < 1:
        raise MediaError(f"At least one frame must be read of {path}, not {frames}.")
    if path.is_dir():
        return _read_folder(path, size, frames, layer, aside)
    with _opened(path, layer) as source:
        found = _collect(path, source, size, begin, until, frames, aside)
        clip = _even(path, source, found, frames)
        if sound and clip.fps and not source.silent:
            at, length = source.origin + found.starts[0], len(clip.frames) / clip.fps
            if length > LONGEST_SOUND:
                note = f"{path} is too long for its sound to be kept."
                return dataclasses.replace(clip, notes=(*clip.notes, note))
            heard, note = streams.hear(path, at, length)
            notes = (*clip.notes, note) if note else clip.notes
            clip = dataclasses.replace(clip, sound=heard, notes=notes)
        return clip


@contextlib.contextmanager
def _opened(path: pathlib.Path, layer: str) -> Iterator[pictures.Picture | streams.Video]:
    picture = pictures.open_picture(path, layer)
    if picture is not None:
        with picture:
            yield picture
    else:
        with streams.opened(path) as container:
            yield streams.Video(path, container)


@dataclasses.dataclass
class _Found:
    """Frames as a file has them."""

    frames: "_Frames"
    starts: list[float]
    end: float | None  # where the next frame would begin, None where the file ends
    last: float  # what the file says of how long the last frame lasts


class _Frames:
    """Frames of one size as they come, in memory or laid aside."""

    def __init__(self, path: pathlib.Path, aside: bool):
        self.path, self.bytes = path, 0
        self.most = clips.MAX_ASIDE if aside else clips.MAX_BYTES
        self._kept: list[Any] | Spool = Spool() if aside else []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, frame: np.ndarray) -> None:
        self.bytes, self._count = frame.nbytes, self._count + 1
        if len(self) * self.bytes > self.most:
            raise clips.too_long(self.path, self.most)
        try:
            self._kept.append(frame)
        except OSError as error:
            raise clips.no_room(self.path, error) from error

    def taken(self, index: Sequence[int] | np.ndarray) -> Any:
        """The frames of an index that never steps back, once."""
        if isinstance(self._kept, Spool):
            return self._kept.reel().taken(index)
        return _stacked(self._kept, index)


def _collect(
    path: pathlib.Path, source, size, begin: float, until: float, count, aside: bool
) -> _Found:
    reel = _Found(_Frames(path, aside), [], None, 0.0)
    target = original = None
    for start, duration, found, make in source.frames(begin):
        if start >= until or len(reel.frames) == count:
            reel.end = start
            break
        if original is None:
            original = found
            target = size(*found) if callable(size) else size or found
            whole = not begin and count is None and until == math.inf
            if whole and source.count * target[0] * target[1] * 3 > reel.frames.most:
                raise clips.too_long(path, reel.frames.most)  # at once, not after minutes
        elif found != original:
            changed = "{}x{} to {}x{}".format(*original, *found)
            note = f"{path} changes its size from {changed}: later frames were scaled and cut."
            source.notes.setdefault(note)
        reel.frames.append(make(target))
        reel.starts.append(start)
        reel.last = duration
    if not reel.frames:
        if begin:
            raise MediaError(f"{path} has no frames after {begin:g} seconds.")
        raise MediaError(f"{path} is damaged: no frame can be decoded.")
    return reel


def _even(path: pathlib.Path, source, reel: _Found, count: int | None) -> Clip:
    """The frames of a reel at an even rate."""
    if source.still and len(reel.frames) == 1:
        return Clip(reel.frames.taken([0]), None, tuple(source.notes))
    # Reordering leaves some damaged files with times that step back: nothing is shown before time.
    origin = reel.starts[0]
    starts = np.maximum.accumulate(np.array(reel.starts) - origin)
    if reel.end is not None:
        end = max(reel.end - origin, float(starts[-1]) + 1e-3)
    else:
        gap = float(np.median(np.diff(starts))) if len(starts) > 1 else 0.0
        last = reel.last
        # Most videos are careless with the last frame's duration: near the usual one, it is that.
        if last <= 0 or (not source.careful and abs(last - gap) < 0.5 * gap):
            last = gap or 1 / (source.declared or 25.0)
        end = float(starts[-1]) + last
        # Some containers end early without a complaint; sound may be longer than the pictures.
        expected = source.expected - origin
        if source.broken or (source.silent and end < 0.9 * expected - 0.1):
            source.notes.setdefault(clips.broken(path, len(starts), end, expected))
    rate, end = even_rate(starts, end, source.tick, source.declared)
    if end * rate * reel.frames.bytes > reel.frames.most:  # one frame may last for days
        raise clips.too_long(path, reel.frames.most)
    index = on_clock(starts, end, rate, slack=source.tick)[:count]
    return Clip(reel.frames.taken(index), rate, tuple(source.notes))


def _stacked(frames: list, index: Sequence[int] | np.ndarray) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of an index that never steps back; each is let go when it is copied."""
    stacked = np.empty((len(index), *frames[0].shape), np.uint8)
    for beat, i in enumerate(index):
        stacked[beat] = frames[i]
        if beat + 1 == len(index) or index[beat + 1] != i:
            frames[i] = None
    return stacked


# ----------------------------------------------------------------------------------------- folders

_NUMBERED = re.compile(r"(\d+)\.(png|jpe?g|webp|bmp|tiff?|avif)$", re.IGNORECASE)


def numbered(folder: pathlib.Path) -> list[pathlib.Path]:
    """The pictures of a folder in the order of their numbers, hidden files aside."""
    found: dict[int, pathlib.Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not (match := _NUMBERED.search(path.name)):
            continue
        number = int(match[1])
        if number in found:
            raise MediaError(
                f"{folder} has two pictures of one number, {found[number].name} and {path.name}; "
                "keep one series in it."
            )
        found[number] = path
    if not found:
        raise MediaError(
            f"{folder} is a directory without numbered pictures (such as 0001.png); "
            "name a video or picture in it."
        )
    return [found[number] for number in sorted(found)]


def _read_folder(folder: pathlib.Path, size, count: int | None, layer: str, aside: bool) -> Clip:
    paths = numbered(folder)
    notes: dict[str, None] = {}
    frames = _Frames(folder, aside)
    target = original = None
    for path in paths[:count]:
        with _opened(clips.existing(path), layer) as source:
            _, _, found, make = next(iter(source.frames()))
            if original is None:
                original = found
                target = size(*found) if callable(size) else size or found
            elif found != original:
                note = f"The pictures in {folder} differ in size: all were cut to the first's."
                notes.setdefault(note)
            frames.append(make(target))
            notes.update(source.notes)
    fps = metadata.stored(paths[0]).get("fps")
    fps = float(fps) if isinstance(fps, int | float) and 0.01 <= fps <= 1000 else None
    return Clip(frames.taken(range(len(frames))), fps, tuple(notes))
