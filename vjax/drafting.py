"""Boards to start from: `python -m vjax.sample storyboard --draft "a red circle moves right"`."""

import argparse
from collections.abc import Sequence

from vjax.timeline import RequestError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RequestError(f"{message.removeprefix('argument ')}.")


def is_asked(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a draft."""
    named = (argument.partition("=")[0] for argument in arguments)
    return "storyboard" in arguments and "--draft" in named


def draft(arguments: Sequence[str]) -> str:
    """The board, or the name of the file that it was written to.

    Raises:
        RequestError: it cannot be made of what is given, or the file is there already.
    """
    from vjax.verbs import board

    parser = _Parser(prog="python -m vjax.sample", allow_abbrev=False)
    parser.add_argument("verb", choices=["storyboard"])
    parser.add_argument("--draft", metavar="LINE", help="what the video should show")
    parser.add_argument("--out", metavar="FILE", help="where to write the board; default: stdout")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE where it exists")
    asked = parser.parse_args(arguments)
    if not asked.draft.strip():
        raise RequestError('--draft needs a line: --draft "a red circle moves right".')
    text = board.draft(asked.draft)
    if asked.out is None:
        return text.rstrip()
    try:
        with open(asked.out, "w" if asked.overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise RequestError(f"{asked.out} exists: name another file, or say --overwrite.") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise RequestError(f"{asked.out!r} cannot be written: {why}.") from error
    return asked.out
