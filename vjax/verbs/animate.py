"""animate: a video that starts with a picture."""

import dataclasses
from typing import Annotated

from vjax.timeline import Gap, Timeline
from vjax.verbs import media
from vjax.verbs.request import Frames, Media, Option, Prompt, Request, Seconds


@dataclasses.dataclass(frozen=True, eq=False)
class Animate(Request):
    """A video that starts with an image."""

    example = 'animate photo.png --prompt "a blue star spins at night"'

    image: Annotated[Media, Option("the picture to start with", "IMAGE", positional=True)]
    prompt: Prompt
    _: dataclasses.KW_ONLY
    frames: Frames = None
    seconds: Seconds = None

    def timeline(self) -> Timeline:
        return self.with_film(
            (media.read(self.image, first=True), Gap()), frames=self.frames, seconds=self.seconds
        )


def animate(image: Media, prompt: str, **options) -> Timeline:
    """A video whose first frame is the image: a file, or an array [H W 3].

    Args:
        options: as in `text`.
    """
    return Animate.of(image, prompt, **options).timeline()
