"""upscale: the same video, larger."""

import dataclasses
from typing import Annotated

import numpy as np

from vjax.timeline import RequestError, Timeline
from vjax.verbs import media
from vjax.verbs.request import FpsIn, Media, Option, OwnFps, Request, SourcePrompt

LONGEST_SIDE = 8192  # of what is given, in pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Upscale(Request):
    """The same video in a larger size, with its details made anew."""

    example = "upscale clip.mp4 --size 320x320"

    video: Annotated[Media, Option("the video or picture to enlarge", "VIDEO", positional=True)]
    prompt: SourcePrompt = ""
    _: dataclasses.KW_ONLY
    strength: Annotated[
        float, Option("how much is made anew: from above 0 to below 1 (0.35)", "S")
    ] = 0.35
    fps: OwnFps = None
    fps_in: FpsIn = None

    def check(self) -> None:
        if self.size is None:
            raise RequestError("Say how large it should be, such as 320x320.")
        if not 0 < self.strength < 1:
            raise RequestError(
                f"A strength of {self.strength:g} cannot be: choose a number between 0 and 1."
            )

    def timeline(self) -> Timeline:
        given = media.read(self.video, self.fps_in, longest=LONGEST_SIDE)
        lasts = len(given.pixels) / given.fps if given.fps and self.fps_in is None else None
        prompt, spans, note = media.prompt_of(self.video, self.prompt, lasts)
        said = "Every frame is made again in its new size: only its tones are kept."
        piece = dataclasses.replace(
            given,
            strength=np.full((len(given.pixels), 1, 1, 1), 1 - self.strength, np.float32),
            notes=(*given.notes, said, *filter(None, [note])),
        )
        fps = self.rate_of(given)
        request = dataclasses.replace(self, prompt=prompt)
        return request.with_film((piece,), fps=fps, sound=given.sound, enlarges=True, spans=spans)


def upscale(video: Media, prompt: str = "", **options) -> Timeline:
    """The given video in a larger size, up to what files hold; in tiles where a model needs them.

    Args:
        prompt: what it shows; empty: what the file says it was made from.
        options: `size` = (width, height), of about the same shape; `strength`, the time between 0
            and 1 from which it is made again (0.35); `fps_in`, the frame rate of an array (the
            model's); `fps` of the result (the video's own); `negative` as in `text`.
    """
    return Upscale.of(video, prompt, **options).timeline()
