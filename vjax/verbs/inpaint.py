"""inpaint: a region of a video made anew."""

import dataclasses
from typing import Annotated

import numpy as np

from vjax.timeline import Timeline
from vjax.verbs import media
from vjax.verbs.request import FpsIn, Media, Option, OwnFps, Prompt, Request


@dataclasses.dataclass(frozen=True, eq=False)
class Inpaint(Request):
    """A region of a video made anew, and all else kept."""

    example = 'inpaint clip.mp4 --mask mask.png --prompt "a red circle on grass"'

    video: Annotated[Media, Option("the video or picture to change", "VIDEO", positional=True)]
    prompt: Prompt
    _: dataclasses.KW_ONLY
    mask: Annotated[
        Media,
        Option("a picture for all frames, or a video: white is made anew, black is kept", "MASK"),
    ]
    fps: OwnFps = None
    fps_in: FpsIn = None

    def timeline(self) -> Timeline:
        given = media.read(self.video, self.fps_in)
        white, notes = media.mask(self.mask, given)
        piece = dataclasses.replace(
            given,
            strength=white.mapped(lambda some: (~some)[..., None].astype(np.float32)),
            notes=(*given.notes, *notes),
        )
        fps = self.rate_of(given)
        return self.with_film((piece,), fps=fps, sound=given.sound)


def inpaint(video: Media, prompt: str, **options) -> Timeline:
    """The given video with a region of it made anew; the rest comes back as it is.

    Args:
        options: `mask`, of the size of the video: a picture for all of its frames, or one for each.
            What is white in it (from half gray on) is made anew, what is black is kept; as a file,
            or as an array [H W], [T H W], … of true and false, 0 to 255 or 0.0 to 1.0. `fps_in`,
            the frame rate of an array (the model's); `fps` of the result (the video's own);
            `negative` and `size` as in `text`.
    """
    return Inpaint.of(video, prompt, **options).timeline()
