"""text: a video from words alone."""

import dataclasses

from vjax.timeline import Timeline
from vjax.verbs.request import Frames, Prompt, Request, Seconds


@dataclasses.dataclass(frozen=True, eq=False)
class Text(Request):
    """A video from words alone."""

    example = '--prompt "a red circle moves right on a black background"'

    prompt: Prompt
    _: dataclasses.KW_ONLY
    frames: Frames = None
    seconds: Seconds = None

    def timeline(self) -> Timeline:
        return self.with_film(frames=self.frames, seconds=self.seconds)


def text(prompt: str, **options) -> Timeline:
    """A video from words alone.

    Args:
        options: `negative`, `frames` or `seconds`, `size` = (width, height) and `fps` of the
            result; what is left out is the model's own.

    Raises:
        RequestError: an option of another name or type, here and in every other verb.
    """
    return Text.of(prompt, **options).timeline()
