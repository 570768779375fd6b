"""extend: more video after or before a video."""

import dataclasses
from typing import Annotated

from vjax.timeline import Gap, RequestError, Timeline
from vjax.verbs import media
from vjax.verbs.request import FpsIn, Media, Option, Prompt, Request

SECONDS = 2.0  # that are added unless the user says


@dataclasses.dataclass(frozen=True, eq=False)
class Extend(Request):
    """More video after or before a video."""

    example = 'extend clip.mp4 --seconds 2 --prompt "a red circle moves right"'

    video: Annotated[Media, Option("the video to extend", "VIDEO", positional=True)]
    prompt: Prompt
    _: dataclasses.KW_ONLY
    seconds: Annotated[float | None, Option(f"how much to add ({SECONDS:g})", "S")] = None
    frames: Annotated[int | None, Option("length of the result, instead of --seconds", "N")] = None
    before: Annotated[bool, Option("make what comes before it, not after")] = False
    fps_in: FpsIn = None

    def check(self) -> None:
        if self.seconds is not None and self.frames is not None:
            raise RequestError("Give either frames or seconds, not both.")
        if self.seconds is not None and self.seconds <= 0:
            raise RequestError(
                f"Cannot extend by {self.seconds:g} seconds: it must be a positive number."
            )

    def timeline(self) -> Timeline:
        given = media.read(self.video, self.fps_in)
        gap = Gap(SECONDS if self.seconds is None and self.frames is None else self.seconds)
        return self.with_film((gap, given) if self.before else (given, gap), frames=self.frames)


def extend(video: Media, prompt: str, **options) -> Timeline:
    """The given frames and new ones after them, or before them.

    Args:
        options: `seconds` to add (2) or `frames`, the length of the result; `before`: whether to
            make what came before; `fps_in`, the frame rate of an array (the model's); `negative`,
            `size` and `fps` as in `text`.
    """
    return Extend.of(video, prompt, **options).timeline()
