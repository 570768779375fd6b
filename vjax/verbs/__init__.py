"""The verbs: what the user has and wants, checked, as a `Timeline`.

A verb is one file of this package and its name in `VERBS`. The file holds a `Request`, which says
what the verb takes (the command line reads its options there, files store it as JSON) and turns it
into a `Timeline`, and a function of the same name for Python. So does `vjax/verbs/animate.py`:
`Animate` and `animate`.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from vjax.timeline import RequestError, Timeline
from vjax.verbs.request import (
    Media,
    Option,
    Request,
    files,
    is_flag,
    mapped,
    named_options,
    needs,
    options,
    repeats,
    to_json,
)

# In the order of the command line's help.
VERBS = (
    "text",
    "animate",
    "bridge",
    "keyframes",
    "extend",
    "infill",
    "inpaint",
    "remix",
    "recut",
    "blend",
    "loop",
    "interpolate",
    "upscale",
    "storyboard",
)

__all__ = [
    "VERBS",
    "Media",
    "Option",
    "Request",
    "RequestError",
    "Timeline",
    "files",
    "from_json",
    "function",
    "is_flag",
    "mapped",
    "named_options",
    "needs",
    "options",
    "repeats",
    "request_type",
    "to_json",
]


def request_type(verb: Any) -> type[Request]:
    """The request of a verb.

    Raises:
        RequestError: there is no such verb.
    """
    if verb not in VERBS:
        raise RequestError(
            f"There is no verb {str(verb)[:40]!r}: choose one of {', '.join(VERBS)}."
        )
    return getattr(importlib.import_module(f"{__name__}.{verb}"), verb.title())


def function(verb: str) -> Callable[..., Timeline]:
    """The function of a verb, as `vjax.animate` is one."""
    return getattr(importlib.import_module(f"{__name__}.{verb}"), verb)


def from_json(values: Any, find: Callable[[Any], Media] | None = None) -> Request:
    """The request that `to_json` wrote, from values that may be anything.

    Args:
        find: what stands for a picture or video, as its file; None: it is the path.

    Raises:
        RequestError: an unknown verb or option, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise RequestError(f"A request is an object with a verb, not {type(values).__name__}.")
    values = dict(values)
    return request_type(values.pop("verb", None)).read(values, find)
