"""bridge: a video from one picture to another."""

import dataclasses
from typing import Annotated

from vjax.timeline import Gap, Timeline
from vjax.verbs import media
from vjax.verbs.request import Frames, Media, Option, Prompt, Request, Seconds


@dataclasses.dataclass(frozen=True, eq=False)
class Bridge(Request):
    """A video from one picture to another."""

    example = 'bridge first.png last.png --prompt "a blue star moves at night" --seconds 2'

    first: Annotated[Media, Option("the picture to start with", "FIRST", positional=True)]
    last: Annotated[Media, Option("the picture to end with", "LAST", positional=True)]
    prompt: Prompt
    _: dataclasses.KW_ONLY
    frames: Frames = None
    seconds: Seconds = None

    def timeline(self) -> Timeline:
        first, last = (media.read(picture, first=True) for picture in (self.first, self.last))
        return self.with_film((first, Gap(), last), frames=self.frames, seconds=self.seconds)


def bridge(first: Media, last: Media, prompt: str, **options) -> Timeline:
    """A video whose first and last frames are the pictures: files, or arrays [H W 3].

    Args:
        options: as in `text`.
    """
    return Bridge.of(first, last, prompt, **options).timeline()
