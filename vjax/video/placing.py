"""New files beside their place, that take it when they are whole and vanish otherwise."""

import contextlib
import itertools
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Container, Iterator

from vjax.video.clip import MediaError


@contextlib.contextmanager
def beside(path: pathlib.Path, *, folder: bool = False) -> Iterator[pathlib.Path]:
    """A hidden file or folder beside a path, gone when the block ends."""
    place = pathlib.Path(os.path.realpath(path))  # a link stays a link
    temporary = place.with_name(f".{secrets.token_hex(6)}{place.suffix.lower()}")
    try:
        if folder:
            temporary.mkdir()
        else:
            with temporary.open("xb"):
                pass
        yield temporary
    finally:
        if folder:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def placed(
    path: pathlib.Path,
    moved: Callable[[pathlib.Path], None],
    *,
    overwrite: bool,
    folder: bool = False,
) -> Iterator[pathlib.Path]:
    """A file or folder to fill, which appears under its name when the block ends well.

    Without `overwrite`, what took the name meanwhile is kept, and a number is added to ours: work
    that is done is never thrown away. `moved` is told under which name it is.
    """
    with beside(path, folder=folder) as temporary:
        yield temporary
        _sync(temporary)
        for name in _numbered(path):
            with contextlib.suppress(FileExistsError):
                _move(temporary, pathlib.Path(os.path.realpath(name)), overwrite)
                moved(name)
                return


def free_path(path: pathlib.Path, reserved: Container[pathlib.Path] = ()) -> pathlib.Path:
    """The path, with a number added where there is something, or where it is reserved."""
    return next(
        name for name in _numbered(path) if name not in reserved and not os.path.lexists(name)
    )


def _numbered(path: pathlib.Path) -> Iterator[pathlib.Path]:
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")


def taken(path: pathlib.Path) -> MediaError:
    return MediaError(f"{path} exists and is kept; choose another name or ask to overwrite it.")


def unwritable(path: pathlib.Path, error: Exception) -> MediaError:
    why = getattr(error, "strerror", None) or str(error)
    return MediaError(f"{path} cannot be written: {why}; free some space or choose another place.")


def _sync(temporary: pathlib.Path) -> None:
    """Some disks only now notice that they are full."""
    files = sorted(temporary.iterdir()) if temporary.is_dir() else [temporary]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _move(temporary: pathlib.Path, place: pathlib.Path, overwrite: bool) -> None:
    if temporary.is_dir():
        if overwrite and place.is_dir():
            older = temporary.with_name(temporary.name + ".old")
            place.rename(older)
            temporary.rename(place)
            shutil.rmtree(older, ignore_errors=True)
        elif place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise FileExistsError(place)
        else:
            temporary.rename(place)  # an empty folder is replaced
    elif overwrite:
        temporary.replace(place)
    else:
        try:
            os.link(temporary, place)  # fails where something is there, unlike a rename
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            with place.open("xb"):
                pass
            try:
                temporary.replace(place)
            except OSError:
                place.unlink()
                raise
