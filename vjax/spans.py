"""Which text speaks when: the spans of a timeline on frames, as biases of cross-attention.

The texts of a window lie one after another: first the prompt of the whole, then those of the spans
that the window meets. Each is embedded on its own. What a latent frame hears of a text is scaled by
its share in the text's span, which is the logarithm of that share added to the scores: 0 inside,
minus infinity outside. A span that is softened fades outside of its ends, by the square of the
distance (Prompt Relay, arXiv:2604.10030).
"""

import dataclasses
import re
from collections.abc import Sequence
from textwrap import shorten
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vjax.canvas import Canvas, cuts_around
from vjax.timeline import RequestError, Span, Timeline

Frames = tuple[int, int]  # from the first to the one after the last
NEVER: Frames = (-1, 0)  # of a reference, which has no time
# At the start of a sentence, or with a colon.
CUT = re.compile(
    r"(?:^|(?<=[.!?;…\n])|(?<=[.!?…][\"'”’)]))\s*(?:and\s+)?(?:then\s+)?(?:cut\s+to|next\s+shot)\b"
    r"\s*[:,]?|\b(?:then\s+)?(?:cut\s+to|next\s+shot)\s*:",
    re.IGNORECASE,
)
FAINTEST = 1e-3  # the share that a text has left at the end of what it is softened over


class Line(NamedTuple):
    """A text and the frames `start` to `stop` - 1 over which it speaks."""

    text: str
    start: int
    stop: int
    soften: float = 0.0  # frames beyond its ends over which it fades
    cut: bool = False  # it begins with a cut
    source: str = ""  # what it is compared with; empty: what all are
    # The cuts around it, beyond which none hears it.
    within: tuple[float, float] = (-np.inf, np.inf)

    def shares(self, frames: np.ndarray) -> np.ndarray:
        """How much of it is heard in each of these frames, from 0 to 1."""
        outside = np.maximum(np.maximum(self.start - frames, frames - (self.stop - 1)), 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            faded = FAINTEST ** np.square(outside / self.soften)
        faded = np.where(outside == 0, 1.0, np.where(outside <= self.soften, faded, 0.0))
        return np.where((self.within[0] <= frames) & (frames < self.within[1]), faded, 0.0)


@dataclasses.dataclass(frozen=True)
class Script:
    """What is said over the frames of a result.

    Args:
        prompt: what speaks over all of it; where it is empty, so is what is heard where no line
            speaks.
        lines: what speaks over parts of it, in the order of their starts.
        frames: how many there are.
        loop: what follows the last frame is the first one.
        notes: what the user should know of how it was read.
    """

    prompt: str
    lines: tuple[Line, ...]
    frames: int
    loop: bool = False
    notes: tuple[str, ...] = ()

    @property
    def cuts(self) -> tuple[int, ...]:
        """The frames that begin with a cut."""
        return tuple(line.start for line in self.lines if line.cut and line.start)

    def alone(self, spans: Sequence[Frames]) -> Line | None:
        """The line that is all that is heard in these frames; None: there is another text."""
        heard = self.within(spans)
        if self.prompt.strip() or len(heard) != 1:
            return None
        bias = self.bias(heard, [span for span in spans if span[1] > 0], 2, 1)
        return None if np.any(bias[:, 1]) else heard[0]

    def within(self, spans: Sequence[Frames]) -> tuple[Line, ...]:
        """The lines that are heard in any of these frames."""
        frames = np.concatenate([np.arange(*span) for span in spans if span[1] > 0])
        return tuple(line for line in self.lines if self._shares(line, frames).any())

    def bias(
        self, lines: Sequence[Line], spans: Sequence[Frames], texts: int, tokens: int
    ) -> Float[np.ndarray, "F S"]:
        """What is added to the scores of latent frames with the tokens of texts in a row.

        Args:
            lines: those after the prompt.
            spans: those that each latent frame stands for. What lies before the result hears the
                prompt alone.
            texts: how many there is room for; what is left over is not heard.
            tokens: of each text.
        """
        shares = np.zeros((len(spans), texts))
        for row, (start, stop) in enumerate(spans):
            frames = np.arange(start, stop)
            if stop > 0:
                heard = [self._shares(line, frames).mean() for line in lines]
                shares[row, 1 : 1 + len(lines)] = heard
        said = np.minimum(shares.sum(axis=1), 1)
        shares[:, 0] = 1 if self.prompt.strip() else 1 - said
        with np.errstate(divide="ignore"):
            return np.repeat(np.log(shares), tokens, axis=1).astype(np.float32)

    def _shares(self, line: Line, frames: np.ndarray) -> np.ndarray:
        """How much of a line is heard in each of these frames.

        Those beyond the end hear what the last one does. In a loop they are those from the start
        on, and what is softened fades beyond both of its ends into the other.
        """
        if not self.loop:
            return line.shares(np.clip(frames, 0, self.frames - 1))
        turns = (-self.frames, 0, self.frames)
        return np.max([line.shares(frames % self.frames + turn) for turn in turns], axis=0)


def around(frames: Sequence[float]) -> list[Frames]:
    """The frames that anchors stand for, which lie at a frame or between two."""
    return [(round(at), round(at) + 1) for at in frames]


def shots(prompt: str) -> list[str]:
    """The shots of a prompt, which a sentence that begins with "Cut to" or "Next shot" divides."""
    parts = (part.strip(" ,;-–—\n\t") for part in CUT.split(prompt))
    return [part for part in parts if re.search(r"\w", part)]


def script(timeline: Timeline, canvas: Canvas) -> Script:
    """What a timeline says, on the frames of its canvas.

    Raises:
        RequestError: a span lies outside of the result or is shorter than a frame, or nothing is
            said of something that is to be made; a loop has cuts.
    """
    said = _compared(_said(timeline, canvas), shots(timeline.source_prompt))
    if canvas.loop and said.cuts:
        raise RequestError(
            "A loop goes on and on and has no cuts: describe one shot, without 'cut to'."
        )
    return said


def _said(timeline: Timeline, canvas: Canvas) -> Script:
    if not timeline.spans and len(texts := shots(timeline.prompt)) > 1 and not canvas.known.all():
        return _in_shots(texts, canvas)
    frames, fps = canvas.shown, canvas.fps
    notes: list[str] = []
    lines = [line for span in timeline.spans for line in _lines(span, frames, fps, notes)]
    lines.sort(key=lambda line: line.start)
    cuts = {*canvas.cuts, *(line.start for line in lines if line.cut and line.start)}
    lines = [line._replace(within=cuts_around(cuts, line.start, line.stop)) for line in lines]
    if lines and len(shots(timeline.prompt)) > 1:
        notes.append(
            "The prompt speaks over all of it, beside other texts, so that its shots are not cut: "
            "write each as a text of its own."
        )
    if not timeline.prompt.strip():
        said = canvas.known[:frames].copy()
        for line in lines:
            said[line.start : line.stop] = True
        if not said.all():
            raise RequestError(
                f"Nothing says what is shown from {np.argmin(said) / fps:g} seconds on: give a "
                "prompt for all of it, or a text that speaks there."
            )
    return Script(timeline.prompt, tuple(lines), frames, canvas.loop, tuple(notes))


def _compared(script: Script, sources: Sequence[str]) -> Script:
    """The script with each shot compared with that of the source, where there are as many."""
    if len(sources) < 2:
        return script
    if len(sources) == len(script.lines):
        pairs = zip(script.lines, sources, strict=True)
        lines = tuple(line._replace(source=source) for line, source in pairs)
        return dataclasses.replace(script, lines=lines)
    note = (
        f"The source prompt has {len(sources)} shots and the prompt {max(len(script.lines), 1)}: "
        "all of it is compared as one text."
    )
    return dataclasses.replace(script, notes=(*script.notes, note))


def _in_shots(texts: Sequence[str], canvas: Canvas) -> Script:
    """Shots of equal length over what is made. What is given goes with the shot beside it.

    One given frame at an end is a part of what is made: what is interpolated has its cuts where
    they were. Where all is given and a cut of it is nearer than half a shot, there begins a shot.
    """
    frames = canvas.shown
    cuts = canvas.cuts if sum(len(given.frames) for given in canvas.given) >= frames else ()
    made = np.flatnonzero(~canvas.known[:frames])
    first = int(made[0]) if made[0] > 1 else 0
    last = int(made[-1]) + 1 if made[-1] < frames - 2 else frames
    lines, note = _parted(texts, (first, last), (0, frames), canvas.fps, "The prompt", cuts)
    return Script("", tuple(lines), frames, canvas.loop, (note,))


def _parted(
    texts: Sequence[str],
    made: Frames,
    heard: Frames,
    fps: float,
    called: str,
    cuts: Sequence[int] = (),
) -> tuple[list[Line], str]:
    """Texts that share the frames to make equally and are heard in others around them; a note.

    Args:
        cuts: a text begins with the one that is nearer than half of its share.
    """
    first, count, length = made[0], len(texts), made[1] - made[0]
    if length < count:
        frames = "1 frame is" if length == 1 else f"{length} frames are"
        raise RequestError(
            f"{called} has {count} shots, but {frames} to be made: each shot needs one at least."
        )
    inner = [first - -number * length // count for number in range(1, count)]
    for place, edge in enumerate(inner):
        near = min(cuts, key=lambda cut: abs(cut - edge), default=edge)
        if abs(near - edge) < length // count / 2:
            inner[place] = near
    edges = [heard[0], *inner, heard[1]]
    lines = [
        Line(text, start, stop, cut=start > heard[0])
        for text, start, stop in zip(texts, edges, edges[1:], strict=False)
    ]
    said = [
        f"{max(start, made[0]) / fps:.4g} to {min(stop, made[1]) / fps:.4g} s: "
        f"{shorten(text, 60)!r}"
        for text, start, stop, *_ in lines
    ]
    return lines, f"{called} has {count} shots, with a cut to each: {'; '.join(said)}."


def _lines(span: Span, frames: int, fps: float, notes: list[str]) -> list[Line]:
    """The line of a span, or where its text has shots those of them; notes these."""
    line, texts = _line(span, frames, fps), shots(span.text)
    if len(texts) < 2:
        return [line]
    over = (line.start, line.stop)
    lines, note = _parted(texts, over, over, fps, _called(span))
    notes.append(note)
    return [lines[0]._replace(cut=line.cut), *lines[1:]]


def _called(span: Span) -> str:
    return span.name or f"The text {shorten(span.text, 40)!r}"


def _line(span: Span, frames: int, fps: float) -> Line:
    called = _called(span)
    ends = f"the result ends at {frames / fps:g}: give it other times, or ask for a longer result."
    start, stop = round(span.start * fps), frames
    if start >= frames:
        raise RequestError(f"{called} begins to speak at {span.start:g} seconds, but {ends}")
    if span.end is not None:
        stop = round(span.end * fps)
        if stop > frames:
            raise RequestError(f"{called} speaks until {span.end:g} seconds, but {ends}")
        if stop <= start:
            raise RequestError(
                f"{called} speaks from {span.start:g} to {span.end:g} seconds, which is less than "
                f"a frame at {fps:g} frames a second: let it speak longer."
            )
    return Line(span.text, start, stop, span.soften * fps, span.cut)
