"""What the user gives: files, or arrays of any kind that holds pictures, as frames."""

import contextlib
import dataclasses
import os
import pathlib

import numpy as np
from jaxtyping import Bool

from vjax import characters
from vjax.reel import Reel
from vjax.timeline import Anchor, Piece, RequestError, Span, as_frames
from vjax.verbs.request import Media

LONGEST_SIDE = 1920  # pixels: as large as models make; files are made smaller as they are decoded


def read(
    source: Media,
    fps: float | None = None,
    *,
    first: bool = False,
    longest: int = LONGEST_SIDE,
) -> Piece:
    """The frames of a file or an array, all of which are kept.

    Args:
        fps: their frame rate; None: the file's own, or the model's for an array.
        first: only the first frame is needed.
        longest: files with longer sides are made smaller.

    Raises:
        RequestError, MediaError: it holds no pictures, or cannot have this rate.
    """
    if fps is not None and not 0.01 <= fps <= 1000:
        raise RequestError(f"What is given cannot have a rate of {fps:g}: it is from 0.01 to 1000.")
    if isinstance(source, str | os.PathLike):
        from vjax import video

        notes = []

        def bounded(width: int, height: int) -> tuple[int, int]:
            small = _bounded(width, height, longest)
            if small != (width, height):
                notes.append(f"{source} is {width}x{height}; it was read as {small[0]}x{small[1]}.")
            return small

        count = 1 if first else None
        clip = video.read(source, size=bounded, frames=count, sound=not first, aside=True)
        rate, sound = clip.fps if fps is None else fps, clip.sound
        if first and (clip.fps is not None or os.path.isdir(source)):
            notes.append(f"{source} is a video, of which only the first frame is used.")
        if sound is not None and clip.fps is not None and abs(rate / clip.fps - 1) > 1e-3:
            notes.append(
                f"{source} has {clip.fps:g} frames a second and is shown at {rate:g}: its sound, "
                "which does not fit that, is left out."
            )
            sound = None
        return Piece(clip.frames, fps=rate, sound=sound, notes=(*clip.notes, *notes))
    frames, notes = as_frames(source), []
    if np.ndim(source) in (3, 4) and np.shape(source)[-1] == 4:
        notes.append("What is given has a fourth channel, opacity: it is shown over black.")
    if first and len(frames) > 1:
        notes.append(f"Of {len(frames)} frames, of which one is needed, the first is used.")
        return Piece(frames[:1], notes=tuple(notes))
    return Piece(frames, fps=fps, notes=tuple(notes))


def mask(source: Media, piece: Piece) -> tuple[Bool[Reel, "T H W"], tuple[str, ...]]:
    """Where a mask of given frames is white, and what the user should know of how it was read.

    White is what changes, in every verb. A mask has the size of its frames, and either one picture
    for all of them or one for each.

    Args:
        source: a file, or an array [T H W], [H W], or with a last axis of 1 or 3: true or false,
            whole numbers from 0 to 255 or floats from 0 to 1.

    Raises:
        RequestError: it does not fit the frames, or none of it is white.
        MediaError: it holds no pictures.
    """
    from vjax import video

    if isinstance(source, str | os.PathLike):
        found = video.read_mask(source, size=_bounded)
    else:
        _, height, width, _ = piece.pixels.shape
        pictures = _as_pictures(source, (height, width))
        found = video.Mask(Reel.of(video.white(pictures)))
    (count, height, width), white = piece.pixels.shape[:3], found.white
    if white.shape[1:] != (height, width):
        raise RequestError(
            f"The mask is {white.shape[2]}x{white.shape[1]} and what it is for is {width}x{height}:"
            " make it of the same size."
        )
    if len(white) not in (1, count) and found.fps and piece.fps:
        index = video.resample(np.arange(len(white)), found.fps, piece.fps)
        white = white.taken(index) if len(index) == count else white  # it shows still frames once
    if len(white) not in (1, count):
        raise RequestError(
            f"The mask has {len(white)} frames and the video {count}: give one picture for all of "
            "them, or one for each."
        )
    changing = 100 * video.share(white)
    if not changing:
        raise RequestError(
            "No pixel of the mask is white (128 of 255 or more), so nothing would change."
        )
    said = f"{changing:.0f}" if 1 <= changing <= 99 or changing == 100 else f"{changing:.2g}"
    note = f"The mask is white in {said}% of the picture: that changes, black is kept."
    if len(white) == 1:  # takes no memory for more of them
        white = Reel.of(np.broadcast_to(white, (count, height, width)))
    return white, (*found.notes, note)


def _as_pictures(array: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """A mask in memory as frames [T H W 3]."""
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.ndim == 4 or (
        array.ndim == 3 and array.shape[:2] == sides and array.shape[2] in (1, 3, 4)
    ):
        array = array[None] if array.ndim == 3 else array
    elif array.ndim in (2, 3):
        array = array.reshape(-1, *array.shape[-2:], 1)
    if array.shape[-1:] == (4,):  # as of a file, its colours alone
        array = array[..., :3]
    if array.shape[-1:] == (1,):
        array = np.repeat(array, 3, axis=-1)
    return as_frames(array)


def _bounded(width: int, height: int, longest: int = LONGEST_SIDE) -> tuple[int, int]:
    scale = min(longest / max(width, height), 1)
    return max(1, round(width * scale)), max(1, round(height * scale))


def reference(source: Media) -> Anchor:
    """A picture as a reference without a time."""
    piece = read(source, first=True)
    return Anchor(piece.pixels, notes=(*piece.notes, *characters.consent(source)))


def prompt_of(
    source: Media, prompt: str = "", seconds: float | None = None
) -> tuple[str, tuple[Span, ...], str]:
    """What a video shows: what the user says, or what the file says it was made from; and a note.

    Args:
        seconds: that it lasts, to keep the texts of a board at their times; None: they are joined.

    Raises:
        RequestError: neither says anything.
    """
    if prompt.strip():
        return prompt, (), ""
    if isinstance(source, str | os.PathLike):
        from vjax import verbs, video

        stored = (video.read_metadata(source) or {}).get("request")
        with contextlib.suppress(RequestError):  # it may hold anything
            made = verbs.from_json(stored, lambda _: pathlib.PurePath("not opened"))
            if made.whole.strip():
                note = f"The prompt is that which {os.path.basename(source)} was made from."
                if seconds is None or any(span.start >= seconds for span in made.spans):
                    return made.whole, (), note
                spans = (
                    dataclasses.replace(span, end=None) if (span.end or 0) >= seconds else span
                    for span in made.spans
                )
                return made.told, tuple(spans), note
    raise RequestError(
        "The video does not say what it shows: say it with --prompt TEXT (in Python, prompt)."
    )
