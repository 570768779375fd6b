"""remix: a video changed to what a prompt says, with its motion and composition."""

import dataclasses
from typing import Annotated, Any

import numpy as np

from vjax.timeline import RequestError, Timeline
from vjax.verbs import media
from vjax.verbs.request import FpsIn, Media, Option, OwnFps, Prompt, Request

# The time from which the video is made again with noise, or moved by what differs from its own
# prompt: 0 changes nothing, and at 1 there is but noise.
STRENGTHS = {"subtle": 0.4, "mild": 0.6, "strong": 0.8}
MOVED = {"subtle": 0.7, "mild": 0.8, "strong": 0.9}
LEAST = 1e-3  # is kept in any case: what is not known at all has no start to depart from


def parse_strength(text: str) -> str | float:
    """ "mild" or "0.7"; what is neither stays as it is, and is refused with what there is."""
    try:
        return float(text)
    except ValueError:
        return text


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
            "how much may change: subtle, mild, strong (with a source prompt .7, .8, .9, without "
            "it .4, .6, .8) or a number from 0 to 1 (mild)",
            "S",
            parse_strength,
        ),
    ] = "mild"
    source_prompt: Annotated[
        str | None,
        Option("what VIDEO shows; default: what it was made from; '': not compared with", "TEXT"),
    ] = None
    region: Annotated[
        Media | None,
        Option("change only where this is white, as --mask of inpaint; black is kept", "MASK"),
    ] = None
    fps: OwnFps = None
    fps_in: FpsIn = None

    def check(self) -> None:
        known = self.strength in STRENGTHS
        if not known and (isinstance(self.strength, str) or not 0 <= self.strength <= 1):
            said = repr(self.strength) if isinstance(self.strength, str) else f"{self.strength:g}"
            raise RequestError(
                f"A strength of {said[:40]} cannot be: choose {', '.join(STRENGTHS)} or a number "
                "from 0 (nothing changes) to 1."
            )

    def timeline(self) -> Timeline:
        given = media.read(self.video, self.fps_in)
        shown, notes = self.source_prompt, given.notes
        if shown is None:
            try:
                shown, _, said = media.prompt_of(self.video)
            except RequestError:
                shown, said = "", "It does not say what it shows: it is made again with noise."
            notes = (*notes, said.replace("The prompt is that", "It is compared with the prompt"))
        shown = shown.strip()
        times = MOVED if shown else STRENGTHS
        start = times[self.strength] if isinstance(self.strength, str) else self.strength
        kept = np.float32(max(1 - start, LEAST) if start else 1)
        strength: Any = np.full((len(given.pixels), 1, 1, 1), kept)
        if self.region is not None:
            white, about = media.mask(self.region, given)
            strength = white.mapped(lambda some: np.where(some, kept, np.float32(1))[..., None])
            notes = (*notes, *about)
        piece = dataclasses.replace(given, strength=strength, notes=notes)
        fps = self.rate_of(given)
        return self.with_film((piece,), fps=fps, source_prompt=shown, sound=given.sound)


def remix(video: Media, prompt: str, **options) -> Timeline:
    """The given video changed to what the prompt says, frame by frame in place.

    Args:
        options: `strength`, "subtle", "mild" (the default), "strong" or the time from 0 to 1 from
            which it is made again, where 0 changes nothing; `region`, a mask as in `inpaint`
            outside of which all is kept; `source_prompt`, what the video shows: what differs from
            it is what changes (by default the prompt that a file was made from; without any, the
            video is departed from with noise); `fps_in`, the frame rate of an array (the model's);
            `fps` of the result (the video's own); `negative` and `size` as in `text`.
    """
    return Remix.of(video, prompt, **options).timeline()
