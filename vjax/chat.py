"""Questions to any chat endpoint that speaks as OpenAI's does: the answer, or why there is none.

The key is read from OPENAI_API_KEY. Neither it nor the name, password, keys and tokens of a URL are
ever part of what is returned, raised or shown.
"""

import base64
import dataclasses
import os
import re
import threading
import urllib.parse
from collections.abc import Sequence
from typing import Any

from vjax.answers import NoAnswer, answer_of
from vjax.timeline import RequestError

SECONDS = 30.0  # to wait for an answer, unless told otherwise
# Of what a URL carries after its question mark, the names of what nobody else should know.
_SECRET = re.compile(r"key|token|secret|sig|code|pass|pwd|auth|cred|jwt|sas", re.IGNORECASE)


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
        carried = [v for name, v in urllib.parse.parse_qsl(parts.query) if _SECRET.search(name)]
        found = [os.environ.get("OPENAI_API_KEY"), parts.password, parts.username, *carried]
        found += [urllib.parse.unquote(each) for each in found if each]
        return [each for each in (*found, self.basic) if each and len(each) > 3]

    @property
    def basic(self) -> str:
        """The name and password of the URL as HTTP sends them; empty where it has none."""
        parts = urllib.parse.urlsplit(self.url)
        if not parts.username:
            return ""
        name, word = (urllib.parse.unquote(each or "") for each in (parts.username, parts.password))
        return base64.b64encode(f"{name}:{word}".encode()).decode()


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
    heard = [*failed, *(text for each in found for text in each)]
    if any(secret in text for secret in endpoint.secrets for text in heard):
        raise NoAnswer("its answer repeats the key")
    if not found:
        why = failed[0] if failed else f"it did not answer within {endpoint.seconds:g} seconds"
        raise NoAnswer(why)
    said, model = found[0]
    return answer_of(said), model


def _client(openai: Any, endpoint: Endpoint):
    parts = urllib.parse.urlsplit(endpoint.url)
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    place = parts.netloc.rpartition("@")[2]
    headers = {"Authorization": f"Basic {endpoint.basic}"} if endpoint.basic else {}
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
        few = ", ".join(name[:60] for name in sorted(names)[:8])
        raise NoAnswer(f"it has {len(names)} models, of which none is named ({few})")
    return names[0]


def _content(reply: Any) -> str:
    choice = reply.choices[0]
    if choice.finish_reason == "length":
        raise NoAnswer("its answer was cut off")
    if getattr(choice.message, "refusal", None) or choice.finish_reason == "content_filter":
        raise NoAnswer("it refuses to answer")
    content = choice.message.content
    if isinstance(content, list):  # of parts, as some servers answer
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise NoAnswer("its answer is empty")
    return content
