"""storyboard: cards at times, of which each says or shows what is then."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from vjax.timeline import Gap, RequestError, Span, Timeline
from vjax.verbs import board, media
from vjax.verbs.request import Frames, Media, Option, Prompt, Request, Seconds

CLOSE = 0.5  # seconds: what is given less than this after something else begins with a cut


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Card:
    """What a storyboard says or shows from a time on. `line` is where it stands in a file."""

    at: Annotated[float, Option("when it begins, in seconds", "S")]
    text: Annotated[str | None, Option("what is to be seen from then on", "TEXT")] = None
    until: Annotated[float | None, Option("when its text ends; default: the next text", "S")] = None
    soften: Annotated[float | None, Option("seconds over which its text fades", "S")] = None
    cut: Annotated[
        bool | None,
        Option("whether it begins with a cut; default: where what is given is soon after other"),
    ] = None
    image: Annotated[Media | None, Option("a picture that is shown then", "IMAGE")] = None
    video: Annotated[Media | None, Option("a video that is shown from then on", "VIDEO")] = None
    line: int | None = None

    @property
    def shown(self) -> Media | None:
        """Its picture or video."""
        return self.image if self.video is None else self.video


@dataclasses.dataclass(frozen=True, eq=False)
class Storyboard(Request):
    """A video from cards at times: texts, pictures, videos (--draft LINE writes a board)."""

    example = 'storyboard --draft "a red circle moves right" --out board.yaml'
    explained = (
        "A board is YAML: prompt, seconds and the like as the options below, and cards, such as\n"
        "  cards: [{at: 0, text: a red circle}, {at: 2, image: star.png, cut: true}]\n"
        "A card has at, and any of text, until, soften, cut, image and video."
    )

    cards: Annotated[
        tuple[Card, ...],
        Option("a YAML file with cards, or --draft LINE", "BOARD.yaml", positional=True),
    ]
    prompt: Prompt = ""
    _: dataclasses.KW_ONLY
    soften: Annotated[
        float, Option("seconds beyond each of its ends over which a text fades", "S")
    ] = 0.0
    frames: Frames = None
    seconds: Seconds = None

    @classmethod
    def opened(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a board for the file of it, unless they are given too."""
        cards = values.get("cards")
        files = cards if isinstance(cards, list) else [cards]
        if len(files) > 1 and all(isinstance(file, str) for file in files):
            raise RequestError(f"One board is needed, not {len(files)}: {', '.join(files)}.")
        if not files or not isinstance(files[0], str | os.PathLike):
            return dict(values)
        found = board.read(files[0])
        if "frames" in values or "seconds" in values:
            found = {k: v for k, v in found.items() if k not in ("frames", "seconds")}
        return found | {name: value for name, value in values.items() if name != "cards"}

    @property
    def title(self) -> str:
        return self.prompt or next((card.text for card in self.cards if card.text), "")

    @property
    def whole(self) -> str:
        shots: list[list[str]] = [[]]
        for span in self.spans:
            if span.cut and shots[-1]:
                shots.append([])
            shots[-1].append(span.text)
        texts = [
            [text.strip().rstrip(".") for text in (self.told, *shot) if text] for shot in shots
        ]
        return " Cut to: ".join(". ".join(each) + "." * (len(self.cards) > 1) for each in texts)

    def check(self) -> None:
        if not self.cards:
            raise RequestError("A storyboard needs a card at least.")
        for number, card in enumerate(self.cards):
            name = self._name(number)
            if card.text is None and card.shown is None:
                raise RequestError(f"{name} is empty: give it a text, an image or a video.")
            if card.image is not None and card.video is not None:
                raise RequestError(f"{name} has an image and a video: make two cards of it.")
            for key in ("until", "soften"):
                if card.text is None and getattr(card, key) is not None:
                    raise RequestError(f"{name} has {key}, which is for a text, and no text.")
            if card.text is not None:
                self._span(number)
        said, given = self._saying(), self._showing()
        for kind, numbers in (("text", said), ("image or video", given)):
            for before, after in zip(numbers, numbers[1:], strict=False):
                if self.cards[before].at == self.cards[after].at:
                    raise RequestError(
                        f"{self._name(before)} and {self._name(after, low=True)} both have a "
                        f"{kind} at {self.cards[after].at:g} seconds: choose one."
                    )
        for before, after in zip(said, said[1:], strict=False):
            until, at = self.cards[before].until, self.cards[after].at
            if until is not None and until > at:
                raise RequestError(
                    f"{self._name(before)} speaks until {until:g} seconds and "
                    f"{self._name(after, low=True)} from {at:g} on: texts cannot overlap; say "
                    "soften: to let them fade into each other."
                )

    def timeline(self) -> Timeline:
        film = []
        for number in self._showing():
            card, name = self.cards[number], self._name(number)
            try:
                piece = media.read(card.shown, first=card.video is None)
            except ValueError as error:  # of what is in the file
                raise RequestError(f"{name}: {error}") from error
            film.append(dataclasses.replace(piece, at=card.at, name=name, cut=card.cut))
        return self.with_film(
            (*film, Gap()),
            frames=self.frames,
            seconds=self.seconds,
            spans=self.spans,
            cut_within=CLOSE,
        )

    @property
    def spans(self) -> tuple[Span, ...]:
        said = self._saying()
        ends = [self.cards[number].at for number in said[1:]]
        return tuple(map(self._span, said, [*ends, None]))

    def _span(self, number: int, end: float | None = None) -> Span:
        card = self.cards[number]
        end = end if card.until is None else card.until
        soften = self.soften if card.soften is None else card.soften
        text, name = self.styled(card.text or ""), self._name(number)
        return Span(text, card.at, end, soften, bool(card.cut), name)

    def _saying(self) -> list[int]:
        """The cards with a text, in the order of their times."""
        return self._ordered(card.text is not None for card in self.cards)

    def _showing(self) -> list[int]:
        return self._ordered(card.shown is not None for card in self.cards)

    def _ordered(self, wanted) -> list[int]:
        numbers = [number for number, there in enumerate(wanted) if there]
        return sorted(numbers, key=lambda number: self.cards[number].at)

    def _name(self, number: int, low: bool = False) -> str:
        line = self.cards[number].line
        where = "" if line is None else f" (line {line})"
        return f"{'card' if low else 'Card'} {number + 1}{where}"


def storyboard(
    cards: str | os.PathLike | Sequence[Mapping[str, Any] | Card], prompt: str = "", **options
) -> Timeline:
    """A video from cards at times, or from the YAML file that holds them.

    A text speaks from its card on until the next text; a picture or video is shown at its time, and
    what lies between is made. Where less than half a second lies between, there is a cut.

    Args:
        cards: each with `at`, in seconds, and `text`, `image` or `video`; `cut`: whether it begins
            with a cut, however soon or late it comes; with a text, also `until` and `soften`, in
            seconds.
        prompt: speaks over all of it; it may be empty where texts do.
        options: `soften` for all texts; others as in `text`.
    """
    given = options | ({"prompt": prompt} if prompt else {})
    return Storyboard.read(Storyboard.opened({"cards": cards, **given})).timeline()
