"""Chat endpoints, good and bad, on this machine, asked by the real client."""

import base64
import contextlib
import dataclasses
import http.server
import io
import json
import re
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import tiny
from PIL import Image

from vjax import answers, chat, rewriting
from vjax.timeline import Piece, RequestError

KEY = "sk-do-not-show"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@contextlib.contextmanager
def served(content, *, status=200, kind="application/json", reason="stop", models=("m",), drip=0.0):
    """An endpoint that answers always alike or, by an iterator, in turn; and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(json.dumps({"data": [{"id": name} for name in models]}), 200, kind)

        def do_POST(self):
            size = int(self.headers["Content-Length"])
            asked.append((self.path, self.headers, json.loads(self.rfile.read(size))))
            said = next(content) if isinstance(content, Iterator) else content
            message = {"role": "assistant", "content": said}
            choices = [{"index": 0, "finish_reason": reason, "message": message}]
            whole = json.dumps({"id": "1", "object": "chat.completion", "choices": choices})
            self.reply(content if kind == "text/html" else whole, status, kind)

        def reply(self, text, status, kind):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            with contextlib.suppress(OSError):
                for byte in text.encode() if drip else ():
                    self.wfile.write(bytes([byte]))
                    time.sleep(drip)
                self.wfile.write(b"" if drip else text.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "said",
    [
        "a red ball",
        '"a red ball"',
        "<think>hm, <prompt>no</prompt></think>\n\n<prompt>a red ball</prompt>",
        "half a thought</think> a red ball",
        "Sure! Here is the prompt:\n\na red ball",
        "Here:\n```text\na red ball\n```\nEnjoy.",
        '```json\n{"prompt": "a red ball"}\n```',
        "a red\n  ball\n",
        'Sure! Here\'s your rewritten prompt: "a red ball"',
        "**Prompt:** a red ball\n\n---\nNote: I kept it short.",
        "Of course.\n\na red ball\n\nLet me know if you want changes!",
        "```text\na red ball",
        '{"reasoning": "the user wants", "prompt": "a red ball"} I hope you like it.',
        "<reasoning>hm</reasoning><answer>a red ball</answer>",
        "<|channel|>analysis<|message|>hm<|end|><|channel|>final<|message|>a red ball<|return|>",
        "[THINK]hm[/THINK]\ufeffa red\x00ball\ud800",
    ],
)
def test_of_an_answer_the_prompt_alone_is_taken(said):
    assert answers.answer_of(said) == "a red ball"


@pytest.mark.parametrize(
    "said",
    [
        'A sign that says "open"',
        '"Sun" is painted above "Moon"',
        "Great Wall of China at dawn",
        "a poster under the old description: hello",
        "👩\u200d🚀 floats",
    ],
)
def test_an_answer_without_anything_around_it_stays_as_it_is(said):
    assert answers.answer_of(said) == said


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"content": "", "status": 401}, "refuses the key"),
        ({"content": "<html>", "status": 500, "kind": "text/html"}, "failed .status 500"),
        ({"content": "<html>", "kind": "text/html"}, "something else"),
        ({"content": "a red", "reason": "length"}, "cut off"),
        ({"content": "no", "reason": "content_filter"}, "refuses to answer"),
        ({"content": None}, "empty"),
        ({"content": "I'm sorry, but I can't help with that."}, "refuses to answer"),
        ({"content": "<think>so many thoughts"}, "no answer"),
        ({"content": f"a ball, {KEY}"}, "repeats the key"),
        ({"content": "a ball", "models": (KEY, "b")}, "repeats the key"),
        ({"content": "x" * 5000}, "longer"),
        ({"content": "a", "models": ("a", "b")}, r"2 models, of which none is named \(a, b\)"),
        ({"content": "a red ball", "drip": 0.05}, "did not answer within 1 seconds"),
    ],
)
def test_without_an_answer_the_prompt_stays_and_it_is_said_why(answer, why):
    with served(**answer) as (url, _):
        endpoint = chat.Endpoint(url, seconds=1.0 if "drip" in answer else 20.0)
        found = rewriting.rewrite("a ball", tiny.MODEL, endpoint)
    assert found.prompt == "a ball"
    assert re.search(why, found.failed)
    assert found.stored() == {"of": "a ball", "by": found.by, "failed": found.failed}
    assert found.failed in found.said()
    assert KEY not in found.said()


def test_an_endpoint_that_is_down_is_no_reason_to_stop():
    found = rewriting.rewrite("a ball", tiny.MODEL, chat.Endpoint("http://127.0.0.1:9/v1"))
    assert (found.prompt, found.failed) == ("a ball", "it cannot be reached")


def test_credentials_of_a_url_are_used_and_never_shown():
    with served("a red ball") as (url, asked):
        carried = url.replace("http://", "http://me:hunter22@") + "/chat/completions?token=abcdef"
        endpoint = chat.Endpoint(carried)
        found = rewriting.rewrite("a ball", tiny.MODEL, endpoint)
    (path, headers, body), *_ = asked
    assert path == "/v1/chat/completions?token=abcdef"
    assert headers["Authorization"] == "Basic " + base64.b64encode(b"me:hunter22").decode()
    assert body["messages"][1]["content"] == "a ball"
    assert "right" in body["messages"][0]["content"]  # the words that the model knows
    assert found.prompt == "a red ball"
    for shown in (found.said(), str(found.stored()), repr(endpoint)):
        assert not any(secret in shown for secret in ("me:", "hunter22", "abcdef", KEY))


@pytest.mark.parametrize(
    "carried",
    ["hunter 22", "hunter%2022", "bWVlZTpodW50ZXIgMjI=", "abcdef", "k3y-k3y", "me", "gpt-4o"],
)
def test_an_answer_never_carries_the_secrets_of_the_url(carried):
    with served(f"a ball {carried}", models=("gpt-4o",)) as (url, _):
        url = url.replace("http://", "http://meee:hunter%2022@")
        url += "?deployment=gpt-4o&X-Amz-Signature=abcdef&api-key=k3y-k3y"
        found = rewriting.rewrite("a ball", tiny.MODEL, chat.Endpoint(url))
    assert bool(found.failed) == (carried not in ("me", "gpt-4o"))


def test_an_answer_may_come_in_parts():
    with served([{"type": "text", "text": "a red "}, {"type": "text", "text": "ball"}]) as (url, _):
        assert rewriting.rewrite("a ball", tiny.MODEL, chat.Endpoint(url)).prompt == "a red ball"


def test_what_is_given_is_described_from_pictures_of_it():
    with served("a red ball") as (url, asked):
        one = Piece(tiny.clip(1) // 2)
        rest = np.zeros((9, 1, 1, 1), np.float32)
        rest[[0, 4, 8]] = 1  # the others are black, and nothing that is given
        pixels = np.where(rest > 0, tiny.clip(9), 0).astype(np.uint8)
        pieces = (one, Piece(pixels, rest))
        found = rewriting.describe(pieces, tiny.MODEL, chat.Endpoint(url, "eyes"))
    (_, headers, body), *_ = asked
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["model"] == "eyes"
    kinds = [part["type"] for part in body["messages"][1]["content"]]
    assert kinds == ["text"] + 4 * ["image_url"]
    coded = (part["image_url"]["url"] for part in body["messages"][1]["content"][1:])
    shown = [Image.open(io.BytesIO(base64.b64decode(each.partition(",")[2]))) for each in coded]
    means = [np.asarray(each).mean() for each in shown]
    wanted = [frame.mean() for frame in (one.pixels[0], *pixels[[0, 4, 8]])]
    np.testing.assert_allclose(means, wanted, atol=3)
    assert (found.prompt, found.of, found.by) == (
        "a red ball",
        "",
        f"eyes at {chat.Endpoint(url).host}",
    )
    with pytest.raises(RequestError, match="cannot be reached: say it with --prompt"):
        rewriting.describe(
            (Piece(tiny.clip(9)),), tiny.MODEL, chat.Endpoint("http://127.0.0.1:9/v1")
        )


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a/v1", "http://", "http://a:x/v1"])
def test_what_is_no_endpoint_is_said_before_it_is_asked(url):
    with pytest.raises(RequestError, match="A chat endpoint is a URL"):
        chat.Endpoint(url)


@pytest.mark.parametrize(
    ("prompt", "filled"),
    [
        ("a red circle", "a red circle moves right on a black background"),
        ("a red circle at night", "a red circle moves right at night"),
        ("A blue star rises, neon style.", "A blue star rises on a black background, neon style"),
        ("a ring spins on grass", "a ring spins on grass"),
    ],
)
def test_the_template_says_what_a_small_world_can_know(prompt, filled):
    assert rewriting.rewrite(prompt, tiny.MODEL).prompt == filled


def test_the_template_adds_to_a_prompt_what_it_leaves_open():
    model = dataclasses.replace(tiny.MODEL, vocabulary=())
    said = rewriting.rewrite("A cat walks at night", model).prompt
    assert (
        said
        == "A cat walks at night. Camera: steady, at eye level, with the whole subject in view."
    )
