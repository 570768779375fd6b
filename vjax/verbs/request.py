"""What a verb takes: fields that know how they are checked, stored and asked for."""

import dataclasses
import difflib
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar

import numpy as np

from vjax import characters, styles
from vjax.timeline import Gap, Piece, RequestError, Span, Timeline
from vjax.verbs import typed
from vjax.verbs.typed import Media


@dataclasses.dataclass(frozen=True)
class Option:
    """How a command line asks for a field.

    Args:
        help: what it is.
        metavar: stands for its value.
        parse: one word of the command line to the value, or to one of several; raises ValueError
            with a sentence. None: as the type of the field says.
        positional: it has no name, only its place.
        spelled: the names under which the command line asks for values of a list, in place of one;
            their order there is that of the list.
    """

    help: str
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    positional: bool = False
    spelled: Mapping[str, "Option"] = dataclasses.field(default_factory=dict)


def parse_size(text: str) -> tuple[int, int]:
    """ "96x64" as width and height."""
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        width = height = 0
    if min(width, height) < 1:
        raise RequestError(f"{typed.shown(text)} is no size: write width x height, such as 96x96.")
    return width, height


Range = tuple[int | None, int | None]


def parse_range(text: str) -> Range:
    """ "2:7" as the frames 2 to 6, ":7" as those before 7 and "-5:" as the last five."""
    try:
        start, end = (int(part) if part.strip() else None for part in text.split(":"))
    except ValueError:
        raise RequestError(
            f"{typed.shown(text)} is no range of frames: write START:END, such as 0:5."
        ) from None
    return start, end


def spelled(start: int | None, end: int | None) -> str:
    """A range as `parse_range` reads it."""
    return ":".join("" if n is None else str(n) for n in (start, end))


def parse_rate(text: str) -> float:
    """ "30" or "30000/1001" as frames a second."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise RequestError(
            f"{typed.shown(text)} is no frame rate: write a number or a fraction, such as "
            "30000/1001."
        ) from None


def within(start: int | None, end: int | None, count: int, what: str) -> slice:
    """The frames from `start` to `end` - 1 of something that has so many.

    Negative numbers count from its end, and None is the start or the end itself.

    Raises:
        RequestError: they do not fit; names what they are of.
    """
    first, last = 0 if start is None else start, count if end is None else end
    first, last = (n + count if n < 0 else n for n in (first, last))
    if not 0 <= first < last <= count:
        raise RequestError(
            f"The range {spelled(start, end)} does not fit {what}: its {count} frames end at "
            f"{count}, and the first is 0."
        )
    return slice(first, last)


# Fields that several verbs have.
Prompt = Annotated[str, Option("what the video should show", "TEXT")]
SourcePrompt = Annotated[
    str, Option("what the video shows; default: what it says it was made from", "TEXT")
]
Negative = Annotated[str, Option("what it should not show", "TEXT")]
Size = Annotated[
    tuple[int, int] | None, Option("such as 128x80; default: native", "WxH", parse_size)
]
StyleName = Annotated[
    tuple[str, str] | str,
    Option("what is said around the prompt: a name that `styles` lists", "NAME"),
]
Characters = Annotated[
    tuple[Media, ...],
    Option(
        "a picture of a subject that it shows, or a name that `characters` lists; may be repeated",
        "IMAGE|NAME",
    ),
]
Mute = Annotated[bool, Option("without the sound of what is given")]
OwnFps = Annotated[float | None, Option("frame rate; default: that of VIDEO", "F", parse_rate)]
Fps = Annotated[
    float | None, Option("frame rate, such as 24 or 30000/1001; default: native", "F", parse_rate)
]
FpsIn = Annotated[float | None, Option("frame rate of what is given", "F", parse_rate)]
Frames = Annotated[int | None, Option("length in frames", "N")]
Seconds = Annotated[float | None, Option("length in seconds", "S")]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """What the user has and wants, of one verb: every value is checked when it is made.

    A subclass adds its fields, with annotations that hold an `Option`. Its docstring is the verb's
    line in the help.
    """

    verb: ClassVar[str]
    example: ClassVar[str]  # of what follows the program on a command line
    explained: ClassVar[str] = ""  # what its help says more of its files

    negative: Negative = ""
    style: StyleName = ""
    character: Characters = ()
    size: Size = None
    fps: Fps = None
    mute: Mute = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        cls.verb = cls.__name__.lower()

    def __post_init__(self):
        for name, hint in typed.annotations(type(self)).items():
            value = typed.checked(hint, getattr(self, name), f"{self.verb}: {name}", None)
            object.__setattr__(self, name, value)
        if self.style:
            object.__setattr__(self, "style", tuple(styles.of(self.style)))
        object.__setattr__(self, "character", tuple(map(characters.find, self.character)))
        self.check()

    @property
    def told(self) -> str:
        """What the model is told to show: the prompt in its style."""
        return self.styled(self.prompt)

    @property
    def whole(self) -> str:
        """All that the model is told to show, as one text."""
        return self.told

    @property
    def spans(self) -> tuple[Span, ...]:
        """What it is told to show at times."""
        return ()

    def styled(self, text: str) -> str:
        """A text in the style; none where there is none."""
        return styles.of(self.style).told(text) if text.strip() else text

    def rate_of(self, given: Piece) -> float | None:
        """The rate of a result that keeps that of what is given, unless it is asked for."""
        return given.fps if self.fps is None else self.fps

    def with_film(self, film: Sequence[Piece | Gap] = (Gap(),), **more: Any) -> Timeline:
        """The timeline of a film, with what all verbs say of their result."""
        from vjax.verbs import media

        style = styles.of(self.style)
        avoided = style.avoided(self.negative)
        around = style.prompt.replace(styles.PROMPT, "")
        shared = {"size": self.size, "fps": self.fps, "style": around, **more}
        shared["anchors"] = (*more.get("anchors", ()), *map(media.reference, self.character))
        return Timeline(self.told, tuple(film), avoided, **shared)

    def check(self) -> None:
        """Raises RequestError for values of the right types that cannot work together."""

    @classmethod
    def opened(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by name, with what a file holds in place of the file that stands for several."""
        return dict(values)

    @property
    def title(self) -> str:
        """What a file of it is called after."""
        return getattr(self, "prompt", "")

    def timeline(self) -> Timeline:
        """The request as what is known and what is to be made; reads its files.

        Raises:
            RequestError, MediaError: what is given cannot be used.
        """
        raise NotImplementedError

    @classmethod
    def of(cls, *given: Any, **options: Any) -> "Request":
        """A request from Python values; RequestError where an option is unknown or missing."""
        names = [field.name for field in dataclasses.fields(cls) if not field.kw_only]
        return cls.read(dict(zip(names, given, strict=False)) | options)

    @classmethod
    def read(cls, values: Mapping[str, Any], find: Callable[[Any], Media] | None = None):
        """A request from values by name that may be anything, see `verbs.from_json`."""
        hints = typed.annotations(cls)
        for name in values:
            if name not in hints:
                near = difflib.get_close_matches(str(name), hints, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(hints)}."
                raise RequestError(f"{cls.verb} has no {str(name)[:40]!r}: {hint}")
        for field in dataclasses.fields(cls):
            if field.default is dataclasses.MISSING and values.get(field.name) is None:
                raise RequestError(
                    f"{cls.verb} needs {field.name}: {options(cls)[field.name].help}."
                )
        checked = {
            name: typed.checked(hints[name], value, f"{cls.verb}: {name}", find)
            for name, value in values.items()
        }
        return cls(**checked)


def options(kind: type[Request]) -> dict[str, Option]:
    """The fields of a request by name, in their order, and how to ask for each.

    What a field does not say follows from its type: how to parse a number, that a `bool` is a flag
    and that a tuple of any length is an option that may be repeated.
    """
    found = {}
    for name, hint in typed.annotations(kind).items():
        option = typing.get_args(hint)[1]
        inner = typed.kinds_of(hint)
        parse = option.parse or {int: int, float: float}.get(inner[0], str)
        found[name] = dataclasses.replace(option, parse=parse)
    return found


def named_options(kind: type[Request]) -> dict[str, tuple[str, Option]]:
    """The field and the option behind each name on the command line, without those in place."""
    found: dict[str, tuple[str, Option]] = {}
    for field, option in options(kind).items():
        if not option.positional:
            names = option.spelled or {field: option}
            found |= {name: (field, each) for name, each in names.items()}
    return found


def repeats(kind: type[Request], name: str) -> bool:
    """Whether a field takes any number of values."""
    kinds = typed.kinds_of(typed.annotations(kind)[name])
    return all(typing.get_args(each)[-1:] == (...,) for each in kinds)


def is_flag(kind: type[Request], name: str) -> bool:
    """Whether a field is either there or not."""
    return bool in typed.kinds_of(typed.annotations(kind)[name])


def needs(kind: type[Request], name: str) -> bool:
    """Whether a field has no default."""
    (field,) = (field for field in dataclasses.fields(kind) if field.name == name)
    return field.default is dataclasses.MISSING


def to_json(request: Request, name: Callable[[Media], Any] | None = None) -> dict[str, Any]:
    """A request as plain JSON types: its verb and every field that is not at its default.

    Args:
        name: a picture or video to what stands for it; None: its path, as it is.

    Raises:
        RequestError: it holds frames in memory, which have no name.
    """
    stored: dict[str, Any] = {"verb": request.verb}
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if isinstance(value, np.ndarray) or value != field.default:
            stored[field.name] = mapped(type(request), field.name, value, name or _path)
    return stored


def mapped(kind: type[Request], field: str, value: Any, name: Callable[[Any], Any]) -> Any:
    """The value of a field with every picture and video in it replaced, and lists for tuples."""
    return typed.replaced(typed.annotations(kind)[field], value, name)


def files(request: Request) -> list[Any]:
    """Every picture and video that a request names."""
    found: list[Any] = []
    to_json(request, found.append)
    return found


def _path(media: Media) -> str:
    if isinstance(media, np.ndarray):
        raise RequestError("A request of frames in memory cannot be stored: give it their file.")
    return os.fspath(media)
