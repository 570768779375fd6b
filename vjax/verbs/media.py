"""What the user gives: files, or arrays of any kind that holds pictures, as frames."""

import os
from typing import Any

from vjax.timeline import Given, as_frames
from vjax.verbs.request import Media


def read(source: Media, fps: float | None = None, *, first: bool = False) -> Given:
    """The frames of a file or an array.

    Args:
        fps: their frame rate; None: the file's own, or the model's for an array.
        first: only the first frame is needed.

    Raises:
        RequestError, MediaError: it holds no pictures.
    """
    if isinstance(source, str | os.PathLike):
        from vjax import video

        clip: Any = video.read(source, frames=1 if first else None)
        return Given(
            clip.frames[:1] if first else clip.frames,
            clip.fps if fps is None else fps,
            sound=getattr(clip, "sound", None),
            notes=tuple(getattr(clip, "notes", ())),
        )
    frames = as_frames(source)
    return Given(frames[:1] if first else frames, fps)
