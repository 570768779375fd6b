"""Prompts rewritten before they are used: by a template, or by a language model that is asked.

Models are trained on captions that say everything: what there is, how it moves, where, from which
camera. A user says less. What a prompt was rewritten to is shown and stored; where it cannot be, it
stays as it is, and that is shown and stored too.
"""

import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vjax import chat
from vjax.canvas import ends_of
from vjax.config import ModelConfig
from vjax.order import Order
from vjax.reel import Reel
from vjax.timeline import Piece, RequestError, Timeline

TEMPLATE = "template"
UNSAID = "anything"  # in place of a prompt that is to be written
PICTURES, SIDE = 4, 512  # frames that are shown to a captioner, and their longest side
_UPSAMPLE = """\
You rewrite prompts for a video generator. Keep every fact of the prompt and its language, and what
is in quotes word for word. Add what it leaves open: how the subject looks and moves, the setting,
the light, the camera. One paragraph in the present tense, under 120 words, no lists. Answer with
<prompt>the prompt</prompt> and nothing else."""
_CAPTION = """\
You caption videos for training a video generator. The pictures are frames of one video in their
order. Say in one paragraph in the present tense, under 80 words, what there is, how it looks and
moves, the setting, the light and the camera. No guesses, no lists, nothing about frames or
pictures. Answer with <prompt>the caption</prompt> and nothing else."""
_KNOWN = " The generator knows these words alone: {words}. Use no others."
# What to say where a prompt says nothing of it, and the words that would say it.
_OPEN = (
    (
        "Motion: smooth and continuous.",
        "move moves moving motion run runs walk walks fly flies turn turns dance dances still spin",
    ),
    (
        "Camera: steady, at eye level, with the whole subject in view.",
        "camera shot closeup close-up pan pans zoom lens view drone aerial handheld tracking",
    ),
    (
        "Light: soft and natural.",
        "light lights lit sun sunny sunset sunrise night dark shadow shadows neon candle dusk dawn",
    ),
)


@dataclasses.dataclass(frozen=True)
class Rewritten:
    """A prompt and where it comes from.

    Args:
        prompt: to be used.
        of: what the user wrote; empty where a model described what is given.
        by: `template`, or the model and its host.
        failed: why it is what the user wrote after all; empty: it is not.
    """

    prompt: str
    of: str
    by: str
    failed: str = ""

    def stored(self) -> dict[str, Any]:
        """As plain JSON types, without the prompt, which is stored where prompts are."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "prompt" and v}

    def said(self) -> str:
        """A sentence for the user."""
        if self.failed:
            return (
                f"The prompt is used as it is: {self.by} did not rewrite it, since {self.failed}."
            )
        what = "rewritten" if self.of else "written"
        return f"The prompt was {what} by {self.by}: {self.prompt}"


def asked(
    order: Order, given: Timeline, model: ModelConfig
) -> Callable[[], list[Rewritten]] | None:
    """What writes the prompts of an order otherwise, as it asks to; None: they stay as they are.

    Args:
        given: the timeline of its first request.

    Raises:
        RequestError: there is nothing to rewrite or describe, or nobody to ask.
    """
    url = order.caption or order.upsample
    if url is None:
        return None
    endpoint = None
    if url != TEMPLATE:
        seconds = chat.SECONDS if order.upsample_seconds is None else order.upsample_seconds
        endpoint = chat.Endpoint(url, order.upsample_model, seconds)
    if order.caption is not None:
        if endpoint is None:
            raise RequestError("What is given is described by a chat endpoint: --caption URL.")
        if not given.pieces:
            raise RequestError("Nothing is given that could be described: say it with --prompt.")
        return lambda: [describe(given.pieces, model, endpoint)]
    if given.source_prompt:
        raise RequestError(
            "A remix changes what differs between two prompts, of which --upsample would make one "
            "longer: leave it out, or say --source-prompt ''."
        )
    requests: list[Any] = list(order.requests)  # every verb has a prompt
    if not all(each.prompt.strip() for each in requests):
        raise RequestError("There is no prompt to rewrite: say what it shows with --prompt.")
    return lambda: [rewrite(each.prompt, model, endpoint) for each in requests]


def rewrite(prompt: str, model: ModelConfig, endpoint: chat.Endpoint | None = None) -> Rewritten:
    """A fuller prompt, by an endpoint or, without one, by the template.

    Raises:
        RequestError: the client of endpoints is not installed.
    """
    if endpoint is None:
        return Rewritten(_filled(prompt, model), prompt, TEMPLATE)
    try:
        answer, name = chat.ask(endpoint, _UPSAMPLE + _known(model), prompt)
    except chat.NoAnswer as error:
        return Rewritten(prompt, prompt, f"the model at {endpoint.host}", str(error))
    return Rewritten(answer, prompt, f"{name} at {endpoint.host}")


def describe(pieces: Sequence[Piece], model: ModelConfig, endpoint: chat.Endpoint) -> Rewritten:
    """A prompt that says what given frames show: of all that are known, a few from first to last.

    Raises:
        RequestError: there is no answer, or the client is not installed.
    """
    known = [ends_of(Reel.of(piece.strength))[1] > 0 for piece in pieces]
    anyway = not any(each.any() for each in known)  # all of them are made anew
    frames = [
        (piece.pixels, number)
        for piece, each in zip(pieces, known, strict=True)
        for number in np.flatnonzero(each | anyway).tolist()
    ]
    shown = np.unique(np.linspace(0, len(frames) - 1, PICTURES).round().astype(int)).tolist()
    pictures = [_jpeg(pixels[number]) for pixels, number in (frames[i] for i in shown)]
    try:
        answer, name = chat.ask(endpoint, _CAPTION + _known(model), "The frames:", pictures)
    except chat.NoAnswer as error:
        raise RequestError(
            f"The model at {endpoint.host} did not describe what is given, since {error}: say it "
            "with --prompt."
        ) from error
    return Rewritten(answer, "", f"{name} at {endpoint.host}")


def _known(model: ModelConfig) -> str:
    return _KNOWN.format(words=" ".join(model.vocabulary)) if model.vocabulary else ""


def _filled(prompt: str, model: ModelConfig) -> str:
    """What a prompt leaves open, filled in with what is usual."""
    if model.vocabulary:
        from vjax.world import captions

        return captions.filled(prompt)
    words = {word.strip(".,:;!?\"'()") for word in prompt.lower().split()}
    missing = [sentence for sentence, said in _OPEN if not words & set(said.split())]
    return " ".join([prompt.strip().rstrip(".,") + ".", *missing]) if missing else prompt


def _jpeg(frame: UInt8[np.ndarray, "H W 3"]) -> bytes:
    from PIL import Image

    picture, stream = Image.fromarray(frame), io.BytesIO()
    picture.thumbnail((SIDE, SIDE))
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()
