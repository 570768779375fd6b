"""Questions to any chat endpoint that speaks as OpenAI's does: the answer, or why there is none.

The key is read from OPENAI_API_KEY. Neither it nor what a URL carries beside its host is ever part
of what is returned, raised or shown.
"""

import base64
import dataclasses
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Sequence
from typing import Any

from vjax.timeline import RequestError

SECONDS = 30.0  # to wait for an answer, unless told otherwise
LONGEST = 4000  # characters of an answer


class NoAnswer(Exception):
    """Why there is no answer: the end of a sentence, without secrets."""


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where to ask.

    Args:
        url: such as http://localhost:8000/v1; `/chat/completions` at its end is left out.
        model: None: the only one that the endpoint lists.
        seconds: how long an answer may take, all in all.

    Raises:
        RequestError: it is no such URL, or no time.
    """

    url: str = dataclasses.field(repr=False)
    model: str | None = None
    seconds: float = SECONDS

    def __post_init__(self):
        try:
            parts = urllib.parse.urlsplit(self.url)
            valid = parts.scheme in ("http", "https") and bool(parts.hostname)
            _ = parts.port
        except ValueError:
            valid = False
        if not valid:
            raise RequestError(
                "A chat endpoint is a URL such as http://localhost:8000/v1 or "
                "https://api.openai.com/v1."
            )
        if not 0 < self.seconds <= 3600:
            raise RequestError(f"{self.seconds:g} seconds is no time to wait for an answer.")

    @property
    def host(self) -> str:
        """The host and port alone, which may be shown."""
        parts = urllib.parse.urlsplit(self.url)
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)

    @property
    def secrets(self) -> list[str]:
        """What must not be shown."""
        parts = urllib.parse.urlsplit(self.url)
        carried = [value for _, value in urllib.parse.parse_qsl(parts.query)]
        found = [os.environ.get("OPENAI_API_KEY"), parts.password, parts.username, *carried]
        return [each for each in found if each and len(each) > 3]


def ask(
    endpoint: Endpoint, system: str, text: str, pictures: Sequence[bytes] = ()
) -> tuple[str, str]:
    """The answer to a text and pictures (JPEG), and the name of the model that gave it.

    Raises:
        NoAnswer: it is down, refuses, takes too long or answers something else.
        RequestError: the client is not installed.
    """
    try:
        import openai
    except ImportError as error:
        raise RequestError(
            'Chat endpoints are asked by the openai package: pip install "vjax[chat]".'
        ) from error
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    for picture in pictures:
        url = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    messages: list[Any] = [
        {"role": "system", "content": system},
        {"role": "user", "content": content if pictures else text},
    ]
    found: list[tuple[str, str]] = []
    failed: list[str] = []

    def work():
        try:
            with _client(openai, endpoint) as client:
                model = endpoint.model or _only_model(client)
                reply = client.chat.completions.create(model=model, messages=messages)
                found.append((_content(reply), model))
        except NoAnswer as error:
            failed.append(str(error))
        except openai.APITimeoutError:
            failed.append(f"it did not answer within {endpoint.seconds:g} seconds")
        except openai.APIStatusError as error:
            reasons = {401: "it refuses the key in OPENAI_API_KEY", 404: "it has no such model"}
            why = reasons.get(error.status_code, "it failed")
            failed.append(f"{why} (status {error.status_code})")
        except openai.APIConnectionError:
            failed.append("it cannot be reached")
        except Exception as error:  # whatever it sends instead of an answer
            failed.append(f"it answers something else than a chat ({type(error).__name__})")

    # An answer that drips is within the limit of each read, so the whole has one too.
    asking = threading.Thread(target=work, daemon=True)
    asking.start()
    asking.join(endpoint.seconds)
    if not found:
        why = failed[0] if failed else f"it did not answer within {endpoint.seconds:g} seconds"
        raise NoAnswer(why)
    said, model = found[0]
    answer = answer_of(said)
    if any(secret in answer for secret in endpoint.secrets):
        raise NoAnswer("its answer repeats the key")
    return answer, model


def answer_of(said: str) -> str:
    """The answer in what a model said, without its thoughts, preambles and fences.

    Raises:
        NoAnswer: there is none.
    """
    text = re.sub(r"<think(ing)?>.*?</think(ing)?>", "", said, flags=re.DOTALL | re.IGNORECASE)
    text = re.split(r"</think(?:ing)?>", text, flags=re.IGNORECASE)[-1].strip()
    if re.match("<think", text, re.IGNORECASE):
        raise NoAnswer("its thoughts came to no answer")
    if tagged := re.search(r"<prompt>(.*?)</prompt>", text, re.DOTALL | re.IGNORECASE):
        text = tagged[1]
    elif fenced := re.search(r"```[^\n`]*\n(.*?)```", text, re.DOTALL):
        text = fenced[1]
    else:
        first, _, rest = text.partition("\n")
        if first.rstrip().endswith(":") and rest.strip():
            text = rest
    text = text.strip()
    if text.startswith("{"):
        try:
            text = next(value for value in json.loads(text).values() if isinstance(value, str))
        except (ValueError, StopIteration, AttributeError):
            raise NoAnswer("it answers something else than a text") from None
    text = " ".join(text.strip().strip("\"'“”`").split())
    if not any(c.isalnum() for c in text):
        raise NoAnswer("its answer is empty")
    if len(text) > LONGEST:
        raise NoAnswer(f"its answer is longer than {LONGEST} characters")
    return text


def _client(openai: Any, endpoint: Endpoint):
    parts = urllib.parse.urlsplit(endpoint.url)
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    place = parts.netloc.rpartition("@")[2]
    headers = {}
    if parts.username:
        name, word = (urllib.parse.unquote(each or "") for each in (parts.username, parts.password))
        coded = base64.b64encode(f"{name}:{word}".encode()).decode()
        headers["Authorization"] = f"Basic {coded}"
    return openai.OpenAI(
        base_url=urllib.parse.urlunsplit((parts.scheme, place, path, "", "")),
        api_key=os.environ.get("OPENAI_API_KEY") or "none",  # servers of one's own ask for none
        timeout=endpoint.seconds,
        max_retries=1,
        default_headers=headers,
        default_query=dict(urllib.parse.parse_qsl(parts.query)),
    )


def _only_model(client: Any) -> str:
    names = [model.id for model in client.models.list().data]
    if len(names) != 1:
        few = ", ".join(sorted(names)[:8])
        raise NoAnswer(f"it has {len(names)} models, of which none is named ({few})")
    return names[0]


def _content(reply: Any) -> str:
    choice = reply.choices[0]
    if choice.finish_reason == "length":
        raise NoAnswer("its answer was cut off")
    if getattr(choice.message, "refusal", None) or choice.finish_reason == "content_filter":
        raise NoAnswer("it refuses to answer")
    if not isinstance(choice.message.content, str):
        raise NoAnswer("its answer is empty")
    return choice.message.content
