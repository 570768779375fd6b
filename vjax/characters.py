"""Characters: pictures of a subject that stays the same, kept under names.

A character is a folder of the library with a picture, `NAME.png`, and `character.json`, which says
who agreed to its use. The library is `$VJAX_CHARACTERS`, or `vjax/characters` of the user's data:
`$XDG_DATA_HOME`, or `~/.local/share`.

    python -m vjax.sample characters
    python -m vjax.sample characters add ada ada.png --consent "Ada agreed in writing on 2026-11-26"
    python -m vjax.sample characters remove ada
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from typing import Any, NamedTuple

import numpy as np

from vjax.timeline import RequestError, printable

PROGRAM = "python -m vjax.sample characters"
NOTES = "character.json"
LONGEST_CONSENT = 500  # characters


class Character(NamedTuple):
    """A character of the library."""

    name: str
    picture: pathlib.Path
    consent: str

    @property
    def note(self) -> str:
        """What is said wherever it is used."""
        return f"The character {self.name} is used with this consent: {self.consent}"


def library() -> pathlib.Path:
    """The folder that characters are kept in; it may not be there yet."""
    if chosen := os.environ.get("VJAX_CHARACTERS"):
        return pathlib.Path(chosen)
    base = os.environ.get("XDG_DATA_HOME", "")
    home = base if os.path.isabs(base) else os.path.expanduser("~/.local/share")
    return pathlib.Path(home) / "vjax" / "characters"


def characters() -> dict[str, Character]:
    """All characters of the library by name; what is no character is left out."""
    found = {}
    with contextlib.suppress(OSError):
        for folder in sorted(library().iterdir()):
            if _is_name(folder.name) and (character := _read(folder)) is not None:
                found[folder.name] = character
    return found


def find(given: Any) -> Any:
    """The picture of a character: of the library where that is its name, or else itself.

    Raises:
        RequestError: a name that is neither in the library nor that of a file.
    """
    if not isinstance(given, str):
        return given
    known = characters()
    if given in known:
        return known[given].picture
    if os.path.exists(given):
        return given
    raise RequestError(
        f"There is no character {given[:60]!r}, and no picture of that name. {_listed(known)}"
    )


def consent(picture: Any) -> tuple[str, ...]:
    """The note on a picture that is of the library; nothing for others."""
    if isinstance(picture, str | os.PathLike):
        folder = pathlib.Path(picture).parent
        character = _read(folder)
        if character is not None and character.picture.name == pathlib.Path(picture).name:
            return (character.note,)
    return ()


def add(name: str, picture: str | os.PathLike, consent: str) -> Character:
    """Keeps the picture in a file (its first frame) under a name.

    Raises:
        RequestError: the name is none, or taken; nobody has agreed; or it cannot be kept.
        MediaError: the file holds no picture.
    """
    from vjax import video

    if not _is_name(name):
        raise RequestError(
            f"{name[:60]!r} is no name of a character: up to 40 of a-z, 0-9, - and _, such as ada."
        )
    consent = " ".join(consent.split())
    if not consent:
        raise RequestError(
            "Say who agreed that this character is used, or why nobody has to: --consent TEXT."
        )
    if len(consent) > LONGEST_CONSENT:
        raise RequestError(f"The consent is over {LONGEST_CONSENT} characters long: shorten it.")
    frames = video.read(picture, frames=1, sound=False).frames
    place = library() / name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as temporary:
            whole = pathlib.Path(temporary) / name
            whole.mkdir()
            video.write(whole / f"{name}.png", np.asarray(frames), None)
            notes = json.dumps({"name": name, "consent": consent}, ensure_ascii=False)
            (whole / NOTES).write_text(notes + "\n", encoding="utf-8")
            if os.path.lexists(place):
                raise RequestError(
                    f"There is a character {name} already: remove it, or choose another name."
                )
            whole.rename(place)
    except OSError as error:
        raise RequestError(f"{place} cannot be written: {error.strerror}.") from error
    return Character(name, place / f"{name}.png", consent)


def remove(name: str) -> None:
    """Deletes a character of the library.

    Raises:
        RequestError: there is none of that name, or it cannot be deleted.
    """
    known = characters()
    if name not in known:
        raise RequestError(f"There is no character {name[:60]!r}. {_listed(known)}")
    folder = known[name].picture.parent
    try:
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
    except OSError as error:
        raise RequestError(f"{folder} cannot be deleted: {error.strerror}.") from error


def main(arguments: list[str]) -> int:
    """The command line: prints characters and their consent, a line each."""
    parser = _Parser(prog=PROGRAM, description="Characters that --character may name.")
    commands = parser.add_subparsers(
        dest="command", metavar="list|add|remove", parser_class=_Parser
    )
    commands.add_parser("list", help="names and consents (the default)")
    adding = commands.add_parser("add", help="keep a picture under a name")
    adding.add_argument("name", metavar="NAME")
    adding.add_argument("picture", metavar="IMAGE")
    adding.add_argument(
        "--consent", required=True, help="who agreed to its use, or why nobody has to"
    )
    removing = commands.add_parser("remove", help="delete a character")
    removing.add_argument("name", metavar="NAME")
    options = parser.parse_args(arguments)
    if options.command == "add":
        shown = [add(options.name, options.picture, options.consent)]
    elif options.command == "remove":
        remove(options.name)
        shown = []
    else:
        shown = list(characters().values())
        if not shown:
            print(f"There are no characters in {library()} yet.", file=sys.stderr)
    for character in shown:
        print(printable(f"{character.name}  {character.picture}  {character.consent}"))
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise RequestError(f"{message.removeprefix('argument ')}; see {PROGRAM} --help.")


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,39}", name) is not None


def _read(folder: pathlib.Path) -> Character | None:
    picture = folder / f"{folder.name}.png"
    try:
        with (folder / NOTES).open(encoding="utf-8") as file:
            consent = json.loads(file.read(2**16)).get("consent")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    if not (isinstance(consent, str) and consent.strip() and picture.is_file()):
        return None
    return Character(folder.name, picture, consent[:LONGEST_CONSENT])


def _listed(known: dict[str, Character]) -> str:
    if not known:
        return f"The library has none yet: {PROGRAM} add NAME IMAGE --consent TEXT."
    names = ", ".join(list(known)[:30])
    return f"There are {names}{' and more' if len(known) > 30 else ''}."
