"""What the user gives: files, or arrays of any kind that holds pictures, as frames."""

import os

from vjax.timeline import Piece, as_frames
from vjax.verbs.request import Media

LONGEST_SIDE = 1280  # pixels: as large as models make; files are made smaller as they are decoded


def read(source: Media, fps: float | None = None, *, first: bool = False) -> Piece:
    """The frames of a file or an array, all of which are kept.

    Args:
        fps: their frame rate; None: the file's own, or the model's for an array.
        first: only the first frame is needed.

    Raises:
        RequestError, MediaError: it holds no pictures.
    """
    if isinstance(source, str | os.PathLike):
        from vjax import video

        notes = []

        def bounded(width: int, height: int) -> tuple[int, int]:
            scale = LONGEST_SIDE / max(width, height)
            if scale >= 1:
                return width, height
            small = max(1, round(width * scale)), max(1, round(height * scale))
            notes.append(f"{source} is {width}x{height}; it was read as {small[0]}x{small[1]}.")
            return small

        clip = video.read(source, size=bounded, frames=1 if first else None)
        rate = clip.fps if fps is None else fps
        return Piece(clip.frames, fps=rate, sound=clip.sound, notes=(*clip.notes, *notes))
    frames = as_frames(source)
    return Piece(frames[:1] if first else frames, fps=fps)
