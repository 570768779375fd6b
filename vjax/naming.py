"""Names of files that the user gave no name: they say what was made."""

import re
import unicodedata
from typing import Any

from vjax import verbs
from vjax.config import SamplerConfig
from vjax.styles import PROMPT
from vjax.verbs import Request

LONGEST = 120  # bytes, with suffix
_NUMBER = 8  # of them, left for a number that is added where there is a file of that name
_SETTINGS = 48  # of them, at most


def name(
    request: Request, seed: int, sampling: SamplerConfig, usual: SamplerConfig, suffix: str
) -> str:
    """Verb, prompt, every setting that is not the usual one but cards and films, and the seed.

    Such as `extend-a-red-circle-moves-right-seconds-3-0.mp4`.
    """
    stored = verbs.to_json(request, lambda _: "")
    settings = {
        field: value
        for field, value in stored.items()
        if field not in ("verb", "prompt", "negative", "cards", "film") and _says(value)
    }
    for field in ("solver", "steps", "guidance", "low_guidance", "shift"):
        value = getattr(sampling, field)
        if value is not None and value != getattr(usual, field):
            settings[field] = value
    said = _cut("-".join(_said(field, value) for field, value in settings.items()), _SETTINGS)
    end = "-".join(filter(None, [said, str(seed)])) + suffix
    words = _cut(_slug(request.title), LONGEST - _NUMBER - len(f"{request.verb}--{end}".encode()))
    return "-".join(filter(None, [request.verb, words, end]))


def _says(value: Any) -> bool:
    """Whether a stored value is more than files, which have no name here."""
    return any(map(_says, value)) if isinstance(value, list) else value not in (None, "")


def _said(field: str, value: Any) -> str:
    if value is True:
        return _slug(field)
    if isinstance(value, int | float) and value >= 0:
        return f"{_slug(field)}-{value:g}"
    if isinstance(value, list) and isinstance(value[0], list):  # ranges, whose ends may be open
        ends = ("start", "end")
        value = [ends[n] if at is None else at for each in value for n, at in enumerate(each)]
    text = re.sub(r"-(?=[0-9])", " minus ", str(value)).replace(PROMPT, "")
    return _slug(f"{field} {text}")


def _slug(text: str) -> str:
    """Letters, marks and digits of any script in lower case, with a hyphen for all else."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in text.lower())
    return "-".join("".join(kept).split())


def _cut(text: str, longest: int) -> str:
    """So many bytes of a text, cut between words, or between characters where they are long."""
    if len(text.encode()) <= longest:
        return text
    whole = text.encode()[: longest + 1].decode(errors="ignore").rpartition("-")[0]
    if len(whole.encode()) < longest / 2:
        whole = text.encode()[:longest].decode(errors="ignore")
    return whole.strip("-")
