"""infill: new frames between kept ones."""

import dataclasses
from typing import Annotated

import numpy as np

from vjax.timeline import RequestError, Timeline
from vjax.verbs import media
from vjax.verbs.request import FpsIn, Media, Option, Prompt, Range, Request, parse_range, within


@dataclasses.dataclass(frozen=True, eq=False)
class Infill(Request):
    """New frames between kept ones."""

    example = 'infill clip.mp4 --keep 0:5 --keep -5: --prompt "a red circle moves right"'

    video: Annotated[Media, Option("the video to change", "VIDEO", positional=True)]
    prompt: Prompt
    _: dataclasses.KW_ONLY
    keep: Annotated[
        tuple[Range, ...],
        Option(
            "keep frames A to B - 1; an end may be left out; may be repeated",
            "[A]:[B]",
            parse_range,
        ),
    ] = ()
    fps_in: FpsIn = None

    def check(self) -> None:
        if not self.keep:
            raise RequestError("No frame is kept: give at least one range of frames to keep.")

    def timeline(self) -> Timeline:
        given = media.read(self.video, self.fps_in)
        count = len(given.pixels)
        kept = np.zeros(count, np.float32)
        for start, end in self.keep:
            kept[within(start, end, count, "the clip")] = 1
        if kept.all():
            raise RequestError(
                "Every frame is kept, so nothing is left to make: keep fewer frames."
            )
        return self.with_film((dataclasses.replace(given, strength=kept[:, None, None, None]),))


def infill(video: Media, prompt: str, **options) -> Timeline:
    """The given video with only some frames as they are; all others are made anew.

    Args:
        options: `keep`, ranges [start, end) of the given video's frames, in which negative numbers
            count from its end and None is an open end, as in [(0, 5), (-5, None)];
            `fps_in`, the frame rate of an array (the model's); `negative`,
            `size` and `fps` as in `text`.
    """
    return Infill.of(video, prompt, **options).timeline()
