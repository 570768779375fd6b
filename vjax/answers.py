"""The answer in what a language model said: without thoughts, preambles, fences and farewells."""

import json
import re
import unicodedata
from typing import Any

LONGEST = 4000  # characters of an answer

_THOUGHTS = r"think|thinking|thoughts?|reasoning|analysis|reflection|scratchpad"
_OPEN, _CLOSE = rf"[<\[◁](?:{_THOUGHTS})[>\]▷]", rf"[<\[◁]/(?:{_THOUGHTS})[>\]▷]"
_TAGS = "prompt|answer|caption|output|response"
_FENCE = re.compile(r"(```|~~~)(?:[\w-]*\n)?(.*?)(?:\1|\Z)", re.DOTALL)
# "Sure! Here is the rewritten prompt:", "**Prompt:**", at the start of an answer.
_PREAMBLE = re.compile(
    r"\A(?:(?:sure|certainly|of course|absolutely|okay|ok|great)(?: thing)?"
    r"(?:[!.,:]+\s+|\s+(?=here\b)))?"
    r"(?:[\s*_#]*(?:here(?:'s|’s| is| are)\b[^:\n]{0,80}"
    r"|(?:[\w-]+ ){0,3}(?:prompt|caption|description|answer|version|output))[\s*_]*:[\s*_]*)?",
    re.IGNORECASE,
)
# What follows an answer, in a paragraph of its own.
_FAREWELL = re.compile(
    r"\n\s*(?:-{3,}|\*{3,}|[*_(\s]*(?:let me know|note\b|notes\b|i hope|i (?:have )?(?:kept|added)|"
    r"feel free|enjoy|would you like|do you want|this (?:prompt|version|description)|"
    r"explanation|changes?\b|if you))",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"(?:i(?:['’]m| am) (?:very )?(?:sorry|unable)|sorry|i (?:can(?:not|['’]t| not)|won['’]t)|"
    r"as an ai)\b[^\n]*?"
    r"\b(?:help|assist|comply|provide|creat|generat|rewrit|describ|request|do (?:that|this))",
    re.IGNORECASE,
)
_QUOTES = ('""', "''", "“”", "‘’", "«»", "``", "**")


class NoAnswer(Exception):
    """Why there is no answer: the end of a sentence, without secrets."""


def answer_of(said: str) -> str:
    """The answer in what a model said, on one line.

    Raises:
        NoAnswer: there is none.
    """
    text = _without_thoughts(_plain(said))
    tagged = re.findall(rf"<({_TAGS})>(.*?)(?:</\1>|\Z)", text, re.DOTALL | re.IGNORECASE)
    closed = re.split(rf"</(?:{_TAGS})>", text, flags=re.IGNORECASE)
    if tagged:
        text = tagged[-1][1]
    elif len(closed) > 1:
        text = closed[0]
    text = text.strip()
    if fenced := _FENCE.search(text):
        text = fenced[2].strip()
    elif not tagged:
        text = _without_manners(text)
    if text[:1] in ("{", "["):
        text = _in_json(text)
    text = _unquoted(" ".join(text.split()))
    if not any(c.isalnum() for c in text):
        raise NoAnswer("its answer is empty")
    if _REFUSAL.match(text):
        raise NoAnswer("it refuses to answer")
    if len(text) > LONGEST:
        raise NoAnswer(f"its answer is longer than {LONGEST} characters")
    return text


def _plain(said: str) -> str:
    """Without what no text should hold: halves of characters, controls, marks of chat templates."""
    text = re.split(r"<\|message\|>", said)[-1]
    text = re.sub(r"<\|im_start\|>\w*|<\|[\w ]{1,40}\|>|</?s>|\ufeff", "", text)
    kinds = {"Cc": " ", "Cs": ""}
    return "".join(c if c == "\n" else kinds.get(unicodedata.category(c), c) for c in text)


def _without_thoughts(text: str) -> str:
    text = re.sub(rf"{_OPEN}.*?{_CLOSE}", "", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.split(_CLOSE, text, flags=re.IGNORECASE)[-1].strip()
    if re.match(_OPEN, text, re.IGNORECASE):
        raise NoAnswer("its thoughts came to no answer")
    return text


def _without_manners(text: str) -> str:
    """Without what is said around the answer."""
    text = _PREAMBLE.sub("", text, count=1)
    first, _, rest = text.partition("\n")
    if first.rstrip(" *_").endswith(":") and rest.strip():
        text = rest.strip()
    return _FAREWELL.split(text)[0].strip()


def _in_json(text: str) -> str:
    """The text in an object or a list of one; text that only begins like that is itself."""
    try:
        value: Any = json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        if text.startswith("["):
            return text
        raise NoAnswer("it answers something else than a text") from None
    while isinstance(value, dict | list) and value:
        if isinstance(value, dict):
            named = [value[key] for key in value if key.lower() in _TAGS.split("|")]
            texts = [each for each in value.values() if isinstance(each, str)]
            value = next(iter([*named, *texts]), None)
        else:
            value = value[0]
    if not isinstance(value, str):
        raise NoAnswer("it answers something else than a text")
    return value


def _unquoted(text: str) -> str:
    """Without the quotes around all of it, but with those within."""
    while len(text) > 2 and text[0] + text[-1] in _QUOTES:
        if text[0] in text[1:-1] and text[0] not in "'*":
            break
        text = text[1:-1].strip()
    return text
