"""remix: a video changed to what a prompt says, with its motion and composition."""

import dataclasses
from typing import Annotated

import numpy as np

from vjax.timeline import RequestError, Timeline
from vjax.verbs import media
from vjax.verbs.request import Media, Option, OwnFps, Prompt, Request

# The time from which the video is made again: 0 changes nothing, and at 1 there is but noise.
STRENGTHS = {"subtle": 0.4, "mild": 0.6, "strong": 0.8}
LEAST = 1e-3  # is kept in any case: what is not known at all has no start to depart from


def parse_strength(text: str) -> str | float:
    """ "mild" or "0.7"."""
    return text if text in STRENGTHS else float(text)


@dataclasses.dataclass(frozen=True, eq=False)
class Remix(Request):
    """A video changed to what the prompt says; its motion and composition stay."""

    example = 'remix clip.mp4 --prompt "a blue circle moves right on a black background"'

    video: Annotated[Media, Option("the video or picture to change", "VIDEO", positional=True)]
    prompt: Prompt
    _: dataclasses.KW_ONLY
    strength: Annotated[
        str | float,
        Option(
            "how much may change: subtle, mild, strong or a number from 0 to 1 (mild)",
            "S",
            parse_strength,
        ),
    ] = "mild"
    region: Annotated[
        Media | None,
        Option("change only where this is white, as --mask of inpaint; black is kept", "MASK"),
    ] = None
    fps: OwnFps = None
    fps_in: Annotated[float | None, Option("frame rate of the given video", "F")] = None

    def check(self) -> None:
        if not 0 <= self._number() <= 1:
            said = repr(self.strength) if isinstance(self.strength, str) else f"{self.strength:g}"
            raise RequestError(
                f"A strength of {said[:40]} cannot be: choose {', '.join(STRENGTHS)} or a number "
                "from 0 (nothing changes) to 1."
            )

    def _number(self) -> float:
        """The strength as a number; -1 for a name that is none."""
        return STRENGTHS.get(self.strength, -1) if isinstance(self.strength, str) else self.strength

    def timeline(self) -> Timeline:
        given = media.read(self.video, self.fps_in)
        kept, notes = np.float32(max(1 - self._number(), LEAST)), given.notes
        strength = np.full((len(given.pixels), 1, 1, 1), kept)
        if self.region is not None:
            white, said = media.mask(self.region, given)
            strength, notes = np.where(white, kept, np.float32(1))[..., None], (*notes, *said)
        piece = dataclasses.replace(given, strength=strength, notes=notes)
        fps = given.fps if self.fps is None else self.fps
        return self.with_film((piece,), fps=fps, sound=given.sound)


def remix(video: Media, prompt: str, **options) -> Timeline:
    """The given video changed to what the prompt says, frame by frame in place.

    Args:
        options: `strength`, "subtle", "mild" (the default), "strong" or the time from 0 to 1 from
            which it is made again, where 0 changes nothing; `region`, a mask as in `inpaint`
            outside of which all is kept; `fps_in`, the frame rate of an array (the model's); `fps`
            of the result (the video's own); `negative` and `size` as in `text`.
    """
    return Remix.of(video, prompt, **options).timeline()
