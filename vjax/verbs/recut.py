"""recut: pieces of videos in a new order, with new frames between them."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from vjax.timeline import Gap, Piece, RequestError, Timeline, as_reel
from vjax.verbs import media
from vjax.verbs.request import FpsIn, Media, Option, Prompt, Range, Request, parse_range, within

Cut = float | Range | tuple[int, int | None, int | None]


def parse_keep(text: str) -> tuple[int | None, ...]:
    """ "2:7" as the frames 2 to 6 of the first video, "1:2:7" of the one after it."""
    number, _, rest = text.partition(":")
    if ":" not in rest:
        return parse_range(text)
    if not number.isdecimal():
        raise RequestError(f"{text!r} is no range of frames: write N:START:END, such as 1:0:5.")
    return int(number), *parse_range(rest)


@dataclasses.dataclass(frozen=True, eq=False)
class Recut(Request):
    """Pieces of videos in a new order, with new frames between them."""

    example = (
        'recut a.mp4 b.mp4 --keep 1:0:17 --gap 1 --keep 8:33 --prompt "a red circle moves right"'
    )

    videos: Annotated[tuple[Media, ...], Option("the videos to cut", "VIDEO …", positional=True)]
    prompt: Prompt
    _: dataclasses.KW_ONLY
    film: Annotated[
        tuple[Cut, ...],
        Option(
            "the pieces and gaps of the result, in their order",
            spelled={
                "keep": Option(
                    "frames A to B - 1, of video N (0); the order of --keep and --gap is that of "
                    "the film",
                    "[N:][A]:[B]",
                    parse_keep,
                ),
                "gap": Option("make so many seconds", "S", float),
            },
        ),
    ] = ()
    fps_in: FpsIn = None

    def check(self) -> None:
        if not any(isinstance(cut, tuple) for cut in self.film):
            raise RequestError("Nothing is kept: give at least one range of frames to keep.")
        if not self.videos:
            raise RequestError("No video is given: name one at least.")

    def timeline(self) -> Timeline:
        videos = [media.read(video, self.fps_in) for video in self.videos]
        film = [Gap(cut) if isinstance(cut, float) else _piece(videos, cut) for cut in self.film]
        return self.with_film(tuple(film))


def _piece(videos: Sequence[Piece], cut: tuple[int | None, ...]) -> Piece:
    number, start, end = cut if len(cut) == 3 else (0, *cut)
    if number is None or not 0 <= number < len(videos):
        raise RequestError(
            f"There is no video {number}: they are numbered from 0 to {len(videos) - 1}."
        )
    video = videos[number]
    shown = within(start, end, len(video.pixels), f"video {number}")
    return dataclasses.replace(
        video,
        pixels=as_reel(video.pixels).taken(shown),
        strength=video.strength[shown],
        heard=shown.start / video.fps if video.fps else 0.0,
    )


def recut(videos: Sequence[Media], prompt: str, **options) -> Timeline:
    """Pieces of videos, one after another, with new frames where there are gaps.

    Args:
        options: `film`, what is shown in its order: a range of frames to keep, (start, end) of the
            first video or (number, start, end) of another, counted from 0, where negative frames
            count from the end and None is an open end; or a number, so many seconds to make.
            `fps_in`, the frame rate of arrays (the model's); `negative`, `size` and `fps` as in
            `text`.
    """
    return Recut.of(videos, prompt, **options).timeline()
