"""Boards: storyboards as YAML, read strictly, with the line and the card of whatever is wrong.

Values are read as they are written, not as YAML 1.1 takes them: `text: yes` is the word, and
`at: 0:30`, which is 30 there, is refused.
"""

import difflib
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from vjax import spans
from vjax.timeline import RequestError
from vjax.verbs.request import parse_rate, parse_size

LARGEST = 2**20  # bytes of a board
SECONDS_EACH = 2.0  # of a card in a draft


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The values of a board by name; those of its cards are a list of such, with their `line`.

    Files in it are beside the board, unless their path is whole.

    Raises:
        RequestError: it cannot be read, or is no board.
    """
    return _Reader(pathlib.Path(path)).board()


def draft(line: str) -> str:
    """A board to edit, from one line: a card for each sentence of it; its shots begin with a cut.

    Raises:
        RequestError: it is no text.
    """
    if any(unicodedata.category(c) == "Cs" for c in line):
        raise RequestError("The line is no text in UTF-8: type it again, or paste it.")
    line = " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in line).split())
    shots = spans.shots(line) or [line]
    texts = [_sentences(shot) for shot in shots]
    if len(texts) == len(texts[0]) == 1:
        texts[0] *= 3

    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)  # YAML reads it as it is

    cards, count = "", 0
    for number, shot in enumerate(texts):
        for place, text in enumerate(shot):
            cards += f"  - at: {SECONDS_EACH * count:g}\n    text: {quoted(text)}\n"
            cards += "    cut: true\n" if number and not place else ""
            count += 1
    return f"""\
# A storyboard. Times are seconds from the start, such as 1.5.
# prompt: in a garden at night # is heard over all of it, beside the texts
seconds: {SECONDS_EACH * count:g}
# soften: 0.5 # texts fade into each other over so many seconds
cards: # a text speaks until the next text, or until: SECONDS
{cards}# A card may show a picture or a video beside its text, or instead of it:
#  - at: 1
#    image: photo.png
"""


def _sentences(text: str) -> list[str]:
    ends = r"(?<=[.!?;])\s+(?:(?:and\s+)?then\s+)?|(?:\s+and)?\s+then\s+"
    parts = [part.strip(" ,") for part in re.split(ends, text)]
    return [part for part in parts if re.search(r"\w", part)] or [text]


class _Reader:
    """One board; `where` is the card that is being read."""

    def __init__(self, path: pathlib.Path):
        self.path, self.where = path, ""

    def fail(self, line: int | None, what: str) -> NoReturn:
        at = "" if line is None else f", line {line}"
        raise RequestError(f"{self.path}{at}{self.where}: {what}")

    def board(self) -> dict[str, Any]:
        node = self._composed()
        kinds = {
            "prompt": self.text,
            "negative": self.text,
            "style": self.text,
            "seconds": self.number,
            "frames": self.whole,
            "size": self.size,
            "fps": self.rate,
            "soften": self.number,
            "cards": self.cards,
        }
        found = self.mapping(node, kinds, "A board")
        if "cards" not in found:
            self.fail(None, "it has no cards: write cards: and below it one for each time.")
        return found

    def cards(self, node: Any) -> list[dict[str, Any]]:
        if node.id != "sequence" or not node.value:
            self.fail(_line(node), "cards is a list: begin each card with a hyphen, as - at: 0.")
        kinds = {
            "at": self.number,
            "until": self.number,
            "soften": self.number,
            "cut": self.flag,
            "text": self.text,
            "image": self.file,
            "video": self.file,
        }
        found = []
        for number, card in enumerate(node.value, 1):
            self.where = f" (card {number})"
            values = self.mapping(card, kinds, "A card")
            if "at" not in values:
                self.fail(_line(card), "the card has no time: say at: SECONDS.")
            found.append({**values, "line": _line(card)})
        self.where = ""
        return found

    def mapping(
        self, node: Any, kinds: Mapping[str, Callable[[Any], Any]], what: str
    ) -> dict[str, Any]:
        if node is None or node.id != "mapping":
            line = None if node is None else _line(node)
            self.fail(line, f"{what} is written as KEY: VALUE, with the keys {_said(kinds)}.")
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = key.value if key.id == "scalar" else "[…]"
            if name not in kinds:
                near = difflib.get_close_matches(name.lower(), kinds, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {_said(kinds)}."
                self.fail(_line(key), f"{what} has no {name[:40]!r}: {hint}")
            if name in found:
                self.fail(_line(key), f"{name} is there twice: choose one.")
            found[name] = kinds[name](value)
        return found

    def scalar(self, node: Any, what: str) -> str:
        if node.id != "scalar":
            self.fail(_line(node), f"{what}, not a list or a mapping; put text in quotes.")
        return node.value

    def text(self, node: Any) -> str:
        text = self.scalar(node, "a text is expected here")
        if not text.strip() or (text in ("~", "null") and not node.style):
            self.fail(_line(node), "the text is empty: write it in quotes, or leave the key out.")
        return text.strip()

    def file(self, node: Any) -> pathlib.Path:
        return self.path.parent / self.text(node)

    def number(self, node: Any) -> float:
        text = self.scalar(node, "a number is expected here").strip()
        if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text, re.ASCII) or len(text) > 20:
            instead = "1.5"
            if clock := re.fullmatch(r"(?:(\d{1,3}):)?(\d{1,3}):(\d{1,2}(?:\.\d+)?)", text):
                hours, minutes, seconds = (float(part or 0) for part in clock.groups())
                instead = f"{3600 * hours + 60 * minutes + seconds:g}"
            self.fail(
                _line(node),
                f"{text[:40]!r} is no number: times are seconds from the start, such as {instead}.",
            )
        return float(text)

    def rate(self, node: Any) -> float:
        text = self.scalar(node, "a frame rate is expected here").strip()
        if not re.fullmatch(r"[\d.]+(/\d+)?", text, re.ASCII):
            self.fail(_line(node), f"{text[:40]!r} is no frame rate, such as 24 or 30000/1001.")
        try:
            return parse_rate(text)
        except RequestError as error:
            self.fail(_line(node), str(error))

    def whole(self, node: Any) -> int:
        number = self.number(node)
        if number != int(number):
            self.fail(_line(node), f"{number:g} is no whole number.")
        return int(number)

    def flag(self, node: Any) -> bool:
        text = self.scalar(node, "true or false is expected here").strip().lower()
        if text not in ("true", "false"):
            self.fail(_line(node), f"{text[:40]!r} is neither true nor false.")
        return text == "true"

    def size(self, node: Any) -> tuple[int, int]:
        try:
            return parse_size(self.scalar(node, "a size such as 96x64 is expected here"))
        except RequestError as error:
            if str(error).startswith(str(self.path)):
                raise
            self.fail(_line(node), str(error))

    def _composed(self) -> Any:
        import yaml

        try:
            with self.path.open("rb") as file:
                data = file.read(LARGEST + 1)
            if len(data) > LARGEST:
                self.fail(None, "it has more than a megabyte, which is no board.")
            return yaml.compose(data.decode("utf-8-sig"), Loader=yaml.SafeLoader)
        except UnicodeDecodeError as error:
            raise RequestError(f"{self.path} is no text in UTF-8.") from error
        except OSError as error:
            raise RequestError(f"{self.path} cannot be read: {error.strerror}.") from error
        except RecursionError as error:
            raise RequestError(f"{self.path} is nested too deeply for a board.") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = None if mark is None else mark.line + 1
            problem = getattr(error, "problem", None) or "it holds characters that YAML has not"
            if r"'\t'" in problem:
                problem = "a tab where YAML takes only spaces: indent with spaces"
            elif "another document" in problem:
                problem = "a second document begins here, and a board is one"
            elif "mapping values are not allowed" in problem:
                problem += ": put text that holds a colon in quotes"
            self.fail(line, f"{problem}.")


def _line(node: Any) -> int:
    return node.start_mark.line + 1


def _said(names: Iterable[str]) -> str:
    return ", ".join(names)
