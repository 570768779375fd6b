"""loop: a video whose end meets its start."""

import dataclasses
from typing import Annotated

from vjax.timeline import Gap, RequestError, Timeline
from vjax.verbs import media
from vjax.verbs.extend import SECONDS
from vjax.verbs.request import FpsIn, Media, Option, Prompt, Request


@dataclasses.dataclass(frozen=True, eq=False)
class Loop(Request):
    """A video whose end meets its start, from words, or from a video and new frames after it."""

    example = 'loop --prompt "a blue star grows on a gray background"'

    prompt: Prompt
    video: Annotated[
        Media | None, Option("a video to close to a loop", "[VIDEO]", positional=True)
    ] = None
    _: dataclasses.KW_ONLY
    seconds: Annotated[
        float | None, Option(f"its length, or how much to add to a video ({SECONDS:g})", "S")
    ] = None
    frames: Annotated[int | None, Option("length of the result, instead of --seconds", "N")] = None
    fps_in: FpsIn = None

    def check(self) -> None:
        if self.seconds is not None and self.frames is not None:
            raise RequestError("Give either frames or seconds, not both.")
        if self.video is None and self.fps_in is not None:
            raise RequestError("fps_in is the rate of a given video, and none is given.")

    def timeline(self) -> Timeline:
        if self.video is None:
            film, seconds = (Gap(),), self.seconds
        else:
            added = SECONDS if self.seconds is None and self.frames is None else self.seconds
            film, seconds = (media.read(self.video, self.fps_in), Gap(added)), None
        return self.with_film(film, frames=self.frames, seconds=seconds, loop=True)


def loop(prompt: str, video: Media | None = None, **options) -> Timeline:
    """A video whose end meets its start: from words, or a given one with new frames after it.

    Args:
        options: `seconds`, its length, or of what is added to a given video (2); `frames`, the
            length of the result; `fps_in`, the frame rate of an array (the model's); `negative`,
            `size` and `fps` as in `text`.
    """
    return Loop.of(prompt, video, **options).timeline()
