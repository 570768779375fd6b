"""Styles: what is said around a prompt, by names that ship here or are in a file of the user's.

A style is a text in which `{prompt}` stands for the prompt, and what the video should not show.
Files are those that image generators have: JSON, a list of objects with `name`, `prompt` and
`negative_prompt`, or CSV with a line of these three names first.
"""

import csv
import difflib
import io
import json
import os
import pathlib
from typing import Any, NamedTuple

from vjax.spans import shots
from vjax.timeline import RequestError

PROMPT = "{prompt}"  # what a style has in place of the prompt; other braces are just braces
PRESETS = pathlib.Path(__file__).parent / "assets" / "styles.json"
LARGEST = 2**20  # bytes of a file


class Style(NamedTuple):
    """What is said around a prompt."""

    prompt: str
    negative: str = ""

    def told(self, prompt: str) -> str:
        """The prompt as the model reads it."""
        if self.prompt == PROMPT:
            return prompt
        if len(parts := shots(prompt)) > 1:
            return " Cut to: ".join(f"{self.told(part).rstrip('.')}." for part in parts)
        return self.prompt.replace(PROMPT, prompt.strip().rstrip(".,"))

    def avoided(self, negative: str) -> str:
        """What it should not show, with what the style should not."""
        return ", ".join(filter(None, [negative, self.negative]))


def of(style: tuple[str, str] | str) -> Style:
    """The style that a request names or holds; an empty one says nothing.

    Raises:
        RequestError: there is none of that name.
    """
    if not style:
        return Style(PROMPT)
    if isinstance(style, str):
        return find(style)
    prompt, negative = style
    whole = prompt if PROMPT in prompt else ", ".join(filter(None, [PROMPT, prompt]))
    return Style(whole, negative)


def find(name: str, file: str | os.PathLike | None = None) -> Style:
    """A style by its name, whatever its case; those of a file come before those that ship.

    Raises:
        RequestError: there is none of that name, or the file holds no styles.
    """
    known = styles(file)
    for each, style in known.items():
        if _plain(each) == _plain(name):
            return style
    near = difflib.get_close_matches(name.lower(), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}."
    raise RequestError(f"There is no style {name[:60]!r}: {hint}")


def styles(file: str | os.PathLike | None = None) -> dict[str, Style]:
    """All styles by name: those of a file, then those that ship."""
    own = {} if file is None else read(file)
    taken = {_plain(name) for name in own}
    return own | {n: s for n, s in read(PRESETS).items() if _plain(n) not in taken}


def read(file: str | os.PathLike) -> dict[str, Style]:
    """The styles of a file.

    Raises:
        RequestError: it cannot be read or holds something else; says where.
    """
    path = pathlib.Path(file)
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is no text in UTF-8.") from error
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > LARGEST:
        raise RequestError(f"{path} is more than {LARGEST >> 20} MB, which no file of styles is.")
    rows = _rows(path, text)
    found: dict[str, Style] = {}
    for number, row in enumerate(rows, start=1):
        values = row if isinstance(row, dict) else {}
        name, prompt, negative = (
            values.get(key) or "" for key in ("name", "prompt", "negative_prompt")
        )
        if not all(isinstance(value, str) for value in (name, prompt, negative)) or not name:
            raise RequestError(
                f"Style {number} of {path} has no name, or no text: a style is "
                '{"name": "neon", "prompt": "{prompt}, neon style", "negative_prompt": ""}.'
            )
        if _plain(name) in map(_plain, found):
            raise RequestError(f"{path} has the style {name!r} twice: give one another name.")
        if prompt.strip() or negative.strip():  # else it is a heading, as some files have
            found[name.strip()] = of((prompt, negative))
    return found


def _rows(path: pathlib.Path, text: str) -> list[Any]:
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
        rows = []
        try:
            if not {"name", "prompt"} <= set(reader.fieldnames or ()):
                raise RequestError(
                    f"{path} does not begin with the line name,prompt,negative_prompt: add it."
                )
            for row in reader:
                if None in row:  # what is beyond the columns
                    raise RequestError(
                        f"{path}, line {reader.line_num}: there are more values than names in the "
                        "first line: put text that holds commas in quotes."
                    )
                rows.append(row)
        except csv.Error as error:
            raise RequestError(f"{path}, line {reader.line_num}: {error}.") from error
        return rows
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise RequestError(f"{path} is no JSON{line}: {str(error)[:100]}.") from error
    if not isinstance(rows, list):
        raise RequestError(f'{path} is no list of styles: [{{"name": …, "prompt": …}}, …].')
    return rows


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())
