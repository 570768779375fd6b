"""Configs from Python files, JSON and the command line, each checked as a whole.

A value has to be what the annotation of its field says: the type, and the `Bounds` beside it. All
that is wrong is said at once, with the path of each field. This is code of our own, since a run
may start on machines that have no validation library and cannot fetch one.
"""

import ast
import dataclasses
import difflib
import math
import numbers
import pathlib
import reprlib
import traceback
import types
import typing
from collections.abc import Iterator
from typing import Any

from vjax.config import Bounds, ConfigError, RunConfig

# Fields of older bundles: they load where these are empty or false.
RETIRED = ("data_std", "linear", "latents_spread")

_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "a text",
    type(None): "None",
}
_INVALID = object()
_short = reprlib.Repr()
_short.maxstring = 60


def to_dict(config) -> dict:
    """A config as nested dicts and tuples, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type, values: Any):
    """The inverse of `to_dict`, for what comes from elsewhere.

    Raises:
        ConfigError: names every field that is unknown, missing, of another type or out of bounds.
    """
    problems: list[str] = []
    config = _read(kind, values, "", problems)
    if problems:
        raise ConfigError("; ".join(problem.rstrip(".") for problem in problems) + ".")
    return config


def load_config(path: str) -> RunConfig:
    """The `RunConfig` that `get_config()` of a Python file returns.

    Raises:
        ConfigError: there is no such file, it fails (says where), or a value cannot work.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise ConfigError(f"There is no config file {path}; the shipped ones are in configs/.")
    module: dict[str, Any] = {"__name__": file.stem, "__file__": str(file)}
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), module)
        if "get_config" not in module:
            raise ConfigError("it must define get_config().")
        config = module["get_config"]()
    except (Exception, SystemExit) as error:
        trace = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in trace if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = path if line is None else f"{path}, line {line}"
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        raise ConfigError(f"{where}: {kind}{error}") from error
    if not isinstance(config, RunConfig):
        raise ConfigError(f"{path}: get_config() returns a {type(config).__name__}, no RunConfig.")
    try:
        return from_dict(RunConfig, to_dict(config))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def override(config, arguments: list[str]):
    """Replaces fields named on the command line: `--steps=100 --stages.0.steps=50`.

    Numbers in a name count the elements of a list, from 0. All changes are made before any is
    checked, so several fields that belong together can change.

    Raises:
        ConfigError: an unknown field (names the nearest), or values that cannot work.
    """
    values = to_dict(config)
    for key, text in _assignments(arguments):
        values = _assign(type(config), values, key.split("."), key, text)
    return from_dict(type(config), values)


def _assignments(arguments: list[str]) -> Iterator[tuple[str, str]]:
    """The names and values of `--name=value` and `--name value`."""
    rest = iter(arguments)
    for argument in rest:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise ConfigError(f"Write overrides as --field=value, got {argument!r}.")
        if not equals and (value := next(rest, None)) is None:
            raise ConfigError(f"{argument} needs a value: {argument}=VALUE.")
        yield key, value


def _assign(hint, value, path: list[str], key: str, text: str):
    """`value` with what lies at `path` in it replaced by what `text` means there."""
    if not path:
        return _parse(hint, text)
    name, rest = path[0], path[1:]
    at = key.split(".")[: -len(path)]
    if isinstance(value, dict):
        kind = next(k for k in _alternatives(hint) if _is_config(k))
        hints = typing.get_type_hints(kind, include_extras=True)
        if name not in hints:
            raise ConfigError(f"Unknown config field {key!r}: {_nearest(name, hints)}")
        return {**value, name: _assign(hints[name], value.get(name), rest, key, text)}
    if isinstance(value, list | tuple) and name.isdecimal() and int(name) < len(value):
        inner = next(_items(k, len(value)) for k in _alternatives(hint) if _is_tuple(k))
        i = int(name)
        return [*value[:i], _assign(inner[i], value[i], rest, key, text), *value[i + 1 :]]
    found = (
        f"has {len(value)} elements"
        if isinstance(value, list | tuple)
        else f"is {_short.repr(value)}"
    )
    raise ConfigError(f"Unknown config field {key!r}: {'.'.join(at)} {found}.")


def _parse(hint, text: str):
    """What a text from the command line means for a field: itself, or a Python literal."""
    kinds = _alternatives(hint)
    if text == "None" and type(None) in kinds:
        return None
    if str in kinds or any(typing.get_origin(kind) is typing.Literal for kind in kinds):
        return text
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _alternatives(hint) -> tuple:
    """The types that an annotation allows, without bounds."""
    if typing.get_origin(hint) is typing.Annotated:
        return _alternatives(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for each in typing.get_args(hint) for kind in _alternatives(each))
    return (hint,)


def _is_config(hint) -> bool:
    return dataclasses.is_dataclass(hint)


def _is_tuple(hint) -> bool:
    return hint is tuple or typing.get_origin(hint) is tuple


def _items(hint, count: int) -> list:
    """The annotations of the elements of a tuple; one more or less than `count` if they differ."""
    inner = typing.get_args(hint)
    return [inner[0]] * count if inner[1:] == (...,) else list(inner)


def _read(hint, value, where: str, problems: list[str], bounds: Bounds | None = None):
    """`value` as its annotation says: lists are tuples, dicts are dataclasses."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _read(inner[0], value, where, problems, inner[1])
    if origin in (typing.Union, types.UnionType):
        tries: list[list[str]] = []
        for kind in sorted(inner, key=lambda kind: kind is type(None)):
            tries.append([])
            result = _read(kind, value, where, tries[-1], bounds)
            if not tries[-1]:
                return result
        problems += tries[0]
        return _INVALID
    if _is_config(hint) and isinstance(value, dict):
        return _read_fields(hint, value, where, problems)
    if _is_tuple(hint) and isinstance(value, list | tuple):
        kinds = _items(hint, len(value))
        if len(kinds) == len(value):
            pairs = zip(kinds, value, strict=True)
            return tuple(
                _read(kind, item, _join(where, i), problems) for i, (kind, item) in enumerate(pairs)
            )
    elif _fits(hint, value, bounds):
        return {int: int, float: float}.get(hint, lambda same: same)(value)
    problems.append(f"{where or 'it'} must be {_wanted(hint, bounds)}, got {_short.repr(value)}")
    return _INVALID


def _read_fields(kind: type, values: dict, where: str, problems: list[str]):
    hints = typing.get_type_hints(kind, include_extras=True)
    before = len(problems)
    for name in values:
        if name not in hints and name in RETIRED and values[name]:
            problems.append(f"{_join(where, name)} is of an older vjax, which alone can read it")
        elif name not in hints and name not in RETIRED:
            inside = f" in {where}" if where else ""
            problems.append(f"unknown field {name!r}{inside}: {_nearest(str(name), hints)}")
    for field in dataclasses.fields(kind):
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            problems.append(f"{_join(where, field.name)} is missing")
    fields = {
        name: _read(hints[name], value, _join(where, name), problems)
        for name, value in values.items()
        if name in hints
    }
    if len(problems) > before:
        return _INVALID
    try:
        return kind(**fields)
    except ConfigError as error:
        problems.append(f"{where}: {error}" if where else str(error))
        return _INVALID


def _fits(hint, value: Any, bounds: Bounds | None) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return isinstance(value, str) and value in typing.get_args(hint)
    if hint in (int, float):
        number = isinstance(value, numbers.Integral if hint is int else numbers.Real)
        if not number or isinstance(value, bool):
            return False
        low, high = bounds or (-math.inf, math.inf)
        try:
            return math.isfinite(value) and low <= value <= high
        except OverflowError:  # a whole number that no float can hold
            return False
    return isinstance(value, hint) if isinstance(hint, type) else False


def _wanted(hint, bounds: Bounds | None) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if _is_tuple(hint):
        inner = typing.get_args(hint)
        return "a list" if inner[1:] == (...,) else f"a list of {len(inner)}"
    if _is_config(hint):
        return f"the fields of a {hint.__name__}"
    span = "" if bounds is None else f" from {bounds.low:g} to {bounds.high:g}"
    return _WORDS.get(hint, str(hint)) + span


def _join(where: str, name) -> str:
    return f"{where}.{name}" if where else str(name)


def _nearest(name: str, names) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
