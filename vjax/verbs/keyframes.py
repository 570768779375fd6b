"""keyframes: a video that shows pictures at their times."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from vjax.timeline import Gap, RequestError, Timeline
from vjax.verbs import media
from vjax.verbs.request import Frames, Media, Option, Prompt, Request, Seconds


def parse_key(text: str) -> tuple[str, float]:
    """ "photo.png@1.5" as a picture and its time in seconds."""
    picture, at, time = text.rpartition("@")
    try:
        if not (picture and at):
            raise ValueError(text)
        return picture, float(time)
    except ValueError:
        raise RequestError(
            f"{text!r} is no picture at a time: write IMAGE@SECONDS, such as photo.png@1.5."
        ) from None


@dataclasses.dataclass(frozen=True, eq=False)
class Keyframes(Request):
    """A video that shows pictures at their times."""

    example = 'keyframes one.png@0.5 other.png@1.5 --prompt "a blue star moves at night"'

    keys: Annotated[
        tuple[tuple[Media, float], ...],
        Option("pictures, and when they are shown", "IMAGE@TIME …", parse_key, positional=True),
    ]
    prompt: Prompt
    _: dataclasses.KW_ONLY
    frames: Frames = None
    seconds: Seconds = None

    def check(self) -> None:
        if not self.keys:
            raise RequestError("No picture is given: name one at least, as IMAGE@SECONDS.")
        times = [time for _, time in self.keys]
        for time in times:
            if times.count(time) > 1:
                raise RequestError(f"Two pictures are given for {time:g} seconds: choose one.")

    def timeline(self) -> Timeline:
        film = [
            dataclasses.replace(media.read(picture, first=True), at=time)
            for picture, time in sorted(self.keys, key=lambda key: key[1])
        ]
        return self.with_film((*film, Gap()), frames=self.frames, seconds=self.seconds)


def keyframes(keys: Sequence[tuple[Media, float]], prompt: str, **options) -> Timeline:
    """A video that shows each picture at its time, in seconds from 0.

    Without a length it is the model's own, or ends with the last picture where that is later.

    Args:
        keys: (picture, time) in any order; a picture is a file or an array [H W 3].
        options: as in `text`.
    """
    return Keyframes.of(keys, prompt, **options).timeline()
