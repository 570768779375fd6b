"""LoRA files that a model is used with, as users name them: FILE, FILE:0.8, FILE@high:0.8."""

import dataclasses
import math
import numbers
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any, Literal

from vjax.timeline import RequestError

LARGEST = 100.0  # scale, either way
EXPERTS = {"high": "dit", "low": "low"}  # by the noise that they are made for, and our names
_NAMED = re.compile(r"(?P<file>.+?)(?:@(?P<expert>high|low))?(?::(?P<scale>[^:/\\]*))?", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Lora:
    """A file and how strongly it changes a model.

    Args:
        file: a safetensors file, or a directory with one as peft and diffusers save it.
        scale: 1: as it was trained.
        expert: of a model with two, the one that is changed: "high" for the one that makes the
            first steps, which are noisy, "low" for the other; None: both.
    """

    file: str
    scale: float = 1.0
    expert: Literal["high", "low"] | None = None

    def __str__(self) -> str:
        expert = f"@{self.expert}" if self.expert else ""
        return f"{pathlib.Path(self.file).name}{expert}:{self.scale:g}"


def parse(text: str) -> Lora:
    """What `FILE[@high|@low][:SCALE]` names.

    Raises:
        RequestError: it names no file, or a scale that is no number.
    """
    found = _NAMED.fullmatch(text)
    if pathlib.Path(text).exists() or found is None:
        if not text:
            raise RequestError("a LoRA is named by its file, FILE or FILE:0.8.")
        return Lora(text)
    scale = found["scale"]
    try:
        number = 1.0 if scale is None else float(scale)
    except ValueError:
        number = math.nan
    expert: Any = found["expert"]
    return Lora(found["file"], _checked(number, scale, found["file"]), expert)


def of(given: Any) -> tuple[Lora, ...]:
    """What callers give: texts as `parse` reads them, pairs of such a text and a scale, or `Lora`s.

    Raises:
        RequestError: it is something else.
    """
    if given is None:
        return ()
    pair = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], numbers.Real)
    if pair or isinstance(given, str | os.PathLike | Lora):
        given = [given]
    if not isinstance(given, Iterable):
        raise RequestError(f"lora is a list of files, each alone or with its scale; got {given!r}.")
    return tuple(map(_one, given))


def _one(given: Any) -> Lora:
    if isinstance(given, Lora):
        return given
    if isinstance(given, str | os.PathLike):
        return parse(os.fspath(given))
    if isinstance(given, tuple | list) and len(given) == 2:
        file, scale = given
        if isinstance(file, str | os.PathLike):
            is_number = isinstance(scale, numbers.Real) and not isinstance(scale, bool)
            number = _checked(scale if is_number else math.nan, scale, file)
            return dataclasses.replace(parse(os.fspath(file)), scale=number)
    raise RequestError(f'A LoRA is "FILE", "FILE:0.8" or ("FILE", 0.8); got {given!r}.')


def _checked(number: Any, given: Any, file: str | os.PathLike) -> float:
    """The number, which was given so."""
    if not abs(number) <= LARGEST:
        raise RequestError(
            f"{str(given)[:40]!r} is no scale of {file}, a number from -{LARGEST:g} to "
            f"{LARGEST:g}: write FILE:0.8, FILE@high:0.8 or FILE@low."
        )
    return float(number)
