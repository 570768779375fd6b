"""Values of a request that may be anything, checked by the annotations of its fields."""

import dataclasses
import difflib
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import Shaped

from vjax.timeline import RequestError

# A file, or frames [T H W 3], [H W 3]: whole numbers from 0 to 255 or floats from 0 to 1.
Media = str | os.PathLike | Shaped[np.ndarray, "..."]


def annotations(kind: type) -> dict[str, Any]:
    """Those of the fields of a dataclass by name, with what is said beside their types."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def checked(hint: Any, value: Any, where: str, find: Callable[[Any], Media] | None) -> Any:
    """The value as its annotation says, with lists as tuples and whole numbers as floats."""
    kinds = kinds_of(hint)
    if value is None and type(None) in typing.get_args(_bare(hint)):
        return None
    for kind in kinds:
        if _is_part(kind):
            if isinstance(value, Mapping | kind):
                return _part(kind, value, where, find)
        elif kind == Media:
            if find is not None:
                return find(value)
            if isinstance(value, str | os.PathLike) and os.fspath(value):
                return value
            if (pillow := sys.modules.get("PIL.Image")) and isinstance(value, pillow.Image):
                from vjax.video import pictures

                return pictures.in_memory(value)
            if hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
                return np.asarray(value)
        elif isinstance(value, list | tuple):
            if (inner := _elements(kind, len(value))) is not None:
                if _is_element(kind, value):
                    one = ", ".join(map(shown, value))
                    raise RequestError(f"{where} must be a list: write [({one})].")
                return tuple(
                    checked(each, v, _numbered(each, where, number), find)
                    for number, (each, v) in enumerate(zip(inner, value, strict=True), 1)
                )
        elif kind is bool and isinstance(value, bool | np.bool_):
            return bool(value)
        elif kind is int and _is_number(value) and value == int(value):
            return int(value)
        elif kind is float and _is_number(value):
            return float(value)
        elif kind is str and isinstance(value, str):
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise RequestError(f"{where} is no text in UTF-8: type it again, or paste it.")
            return value
    wanted = " or ".join(_described(kind) for kind in kinds)
    raise RequestError(f"{where} must be {wanted}, got {shown(value)}.")


def _part(kind: type, value: Any, where: str, find: Callable[[Any], Media] | None) -> Any:
    """A dataclass of several values within a request."""
    values = value if isinstance(value, Mapping) else vars(value)
    hints, fields = annotations(kind), dataclasses.fields(kind)
    for name in values:
        if name not in hints:
            near = difflib.get_close_matches(str(name), hints, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(hints)}."
            raise RequestError(f"{where} has no {str(name)[:40]!r}: {hint}")
    for field in fields:
        if field.default is dataclasses.MISSING and values.get(field.name) is None:
            raise RequestError(f"{where} needs {field.name}.")
    return kind(**{k: checked(hints[k], v, f"{where}: {k}", find) for k, v in values.items()})


def replaced(hint: Any, value: Any, name: Callable[[Any], Any]) -> Any:
    """The value with every picture and video in it replaced, and lists for tuples."""
    (kind, *_) = kinds_of(hint)
    if value is None:
        return None
    if kind == Media:
        return name(value)
    if _is_part(kind):
        given = value if isinstance(value, Mapping) else _given(value)
        return {key: replaced(annotations(kind)[key], each, name) for key, each in given.items()}
    if isinstance(value, tuple | list):
        found = (_elements(each, len(value)) for each in kinds_of(hint))
        inner = next(each for each in found if each is not None)
        return [replaced(each, v, name) for each, v in zip(inner, value, strict=True)]
    return value


def _given(part: Any) -> dict[str, Any]:
    """The values of a part of a request that are asked for and not at their defaults."""
    hints = annotations(type(part))
    asked = [f for f in dataclasses.fields(part) if typing.get_origin(hints[f.name]) is Annotated]
    values = {field.name: (getattr(part, field.name), field.default) for field in asked}
    return {k: v for k, (v, usual) in values.items() if isinstance(v, np.ndarray) or v != usual}


def _elements(kind: Any, count: int) -> tuple[Any, ...] | None:
    """The annotations of the elements of a tuple of that length; None where it is no such."""
    if typing.get_origin(kind) is not tuple:
        return None
    inner = typing.get_args(kind)
    inner = inner[:1] * count if inner[-1:] == (...,) else inner
    return inner if len(inner) == count else None


def _is_element(kind: Any, value: Any) -> bool:
    """Whether a value is one of a list of tuples, without the list around it."""
    inner = typing.get_args(kind)[0]
    alone = not any(isinstance(each, list | tuple) for each in value)
    return alone and bool(value) and _elements(inner, len(value)) is not None


def _numbered(hint: Any, where: str, number: int) -> str:
    parts = [_is_part(kind) for kind in kinds_of(hint)]
    return f"{where}, {_described(kinds_of(hint)[0])} {number}" if all(parts) else where


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types that a value may have, without what stands around them."""
    if typing.get_origin(hint) is Annotated:
        return kinds_of(typing.get_args(hint)[0])
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return (hint,)
    kinds = tuple(kind for kind in typing.get_args(hint) if kind is not type(None))
    return (Media,) if kinds == typing.get_args(Media) else kinds


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _is_part(kind: Any) -> bool:
    """Whether values of a kind are several, by name: a dataclass."""
    return dataclasses.is_dataclass(kind)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    if isinstance(value, int | np.integer):
        return abs(int(value)) < 2**53
    return isinstance(value, float | np.floating) and math.isfinite(value)


def _described(kind: Any) -> str:
    if kind == Media:
        return "a file or an array of frames"
    if typing.get_origin(kind) is tuple:
        inner = [
            " or ".join(map(_described, kinds_of(k))) for k in typing.get_args(kind) if k != ...
        ]
        if typing.get_args(kind)[-1:] == (...,):
            return f"a list, each of it {inner[0]}"
        return f"[{', '.join(inner)}]"
    if _is_part(kind):
        return kind.__name__.lower()
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names[kind]


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    if isinstance(value, np.ndarray):
        return f"an array {list(value.shape)}"
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 40 else text[:39] + "…"
