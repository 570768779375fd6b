"""What is made of a timeline and in which order: data that exists before anything runs."""

import dataclasses
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vjax import abilities, spans, tones
from vjax.anchors import Clip, anchors_of, guiding
from vjax.canvas import Canvas, runs
from vjax.config import ModelConfig
from vjax.layout import on_canvas
from vjax.models.text import words_of
from vjax.segments import Segment, Window, closes, segments_of
from vjax.spans import Line, Script
from vjax.tiles import Tiles, tiles_of
from vjax.timeline import RequestError, Timeline, printable
from vjax.tokenizer import Tokenizer


class Kept(NamedTuple):
    """A stretch of given frames that is kept or changed in place, whose sound stays under it.

    In seconds of their sound and of the result.
    """

    sound: Any  # None: they have none
    start: float
    end: float
    at: float


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """All that is decided about a request before it runs."""

    timeline: Timeline
    canvas: Canvas
    segments: tuple[Segment, ...]
    cuts: tuple[int, ...]  # frames that do not see those before them, nor those these
    context: int  # latents that windows overlap by, at least
    references: tuple[Clip, ...]  # what every window sees beside its anchors
    tiles: Tiles | None  # None: the model makes whole pictures at once
    ratio: int  # frames that a latent stands for, but for the first of a segment
    script: Script  # what is said over the frames
    notes: tuple[str, ...]  # what was done to what is given
    warnings: tuple[str, ...]  # what the model cannot know or read of the texts

    @property
    def frames(self) -> int:
        return self.canvas.shown

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.canvas.width, self.canvas.height

    @property
    def fps(self) -> float:
        return self.canvas.fps

    @property
    def blur(self) -> float:
        """The pixels of the blur that leaves the tones which are kept, see `tones`; 0: none are."""
        if not (self.timeline.enlarges and self.timeline.pieces):
            return 0.0
        _, height, width, _ = self.timeline.pieces[0].pixels.shape
        return tones.BLUR * max(self.size[0] / width, self.size[1] / height)

    @property
    def windows(self) -> int:
        """How many times the model samples."""
        return sum(len(segment.windows) for segment in self.segments)

    @property
    def texts(self) -> int:
        """How many texts a window hears at most, the prompt of the whole among them.

        All have room for as many, so that they are one compiled program. Where each window hears
        but one, that is the program of a prompt.
        """
        windows = [(segment, window) for segment in self.segments for window in segment.windows]
        if all(self.alone(*each) for each in windows):
            return 1
        return 1 + max((len(self.heard(*each)) for each in windows), default=0)

    def heard(self, segment: Segment, window: Window) -> tuple[Line, ...]:
        """What is said beside the prompt over a window and over what it sees out of order."""
        return self.script.within(self._seen(segment, window))

    def alone(self, segment: Segment, window: Window) -> Line | None:
        """All that is said over a window and over what it sees; None: it is not one line."""
        return self.script.alone(self._seen(segment, window))

    def _seen(self, segment: Segment, window: Window) -> list[spans.Frames]:
        frames = segment.frames_of(window, self.ratio)
        frames += spans.around([anchor.at for anchor in window.anchors])
        if closes(self.canvas, segment, window):
            frames.append((self.frames, self.frames + 1 + self.ratio * (self.context - 1)))
        return frames

    def __repr__(self) -> str:
        return f"<Plan\n{self.describe()}>"

    def describe(self) -> str:
        """What the timeline says, the length, size and rate that follow, and what to know of it."""
        lines = self.timeline.describe(asked=False).splitlines()
        if self.cuts:
            lines.append(f"cut     at {', '.join(f'{cut / self.fps:.4g}' for cut in self.cuts)} s")
        length = f"{self.frames} frame{'s' * (self.frames > 1)}"
        if self.frames > 1:
            length += f" at {self.fps:g} a second, {self.frames / self.fps:.4g} s"
        windows = f"{self.windows} window{'s' * (self.windows != 1)}"
        lines.append(f"in all  {length}, {self.size[0]}x{self.size[1]}, made in {windows}")
        lines += [f"note    {printable(note)}" for note in (*self.notes, *self.warnings)]
        return "\n".join(lines)

    def strip(self, columns: int = 16) -> UInt8[np.ndarray, "H W 3"]:
        """A picture of what is known before anything runs: frames from first to last.

        What will be made is gray where nothing is known of it, and what is known in part shines
        through; a green line is under frames that are kept, a gray one under those that are made.
        A line above says which text speaks there: those of the spans take turns of two colours.
        """
        from vjax.video import fit

        index = (
            np.rint(np.linspace(0, self.frames - 1, max(1, min(columns, self.frames))))
            .astype(int)
            .tolist()
        )
        width, height = (max(1, round(side * 96 / max(self.size))) for side in self.size)
        shown = []
        for frame in index:
            pixels, strength = self.canvas.cut(frame, frame + 1)
            mixed = strength * pixels + (1 - strength) * 128
            small = fit(np.rint(mixed).astype(np.uint8), width, height)[0]
            line = (0, 160, 80) if (strength >= 1).all() else (160, 160, 160)
            framed = np.pad(small, ((0, 6), (0, 2), (0, 0)), constant_values=255)
            framed[-5:-1, :-2] = line
            for number, said in enumerate(self.script.lines):
                if said.start <= frame < said.stop:
                    framed[:4, :-2] = ((220, 120, 0), (60, 90, 220))[number % 2]
            shown.append(framed)
        return np.concatenate(shown, axis=1)

    @property
    def kept(self) -> tuple[Kept, ...]:
        """The stretches of given frames of which anything is kept, or all where a sound goes on."""
        fps = self.canvas.fps
        if self.timeline.sound is not None:
            return (Kept(self.timeline.sound, 0.0, self.frames / fps, 0.0),)
        return tuple(
            Kept(
                given.piece.sound,
                given.piece.heard + start / fps,
                given.piece.heard + stop / fps,
                (given.at + start) / fps,
            )
            for given in self.canvas.given
            if given.at < self.frames
            for start, stop in runs(given.most > 0)
        )


def plan(timeline: Timeline, model: ModelConfig, tokenizer: Tokenizer | None = None) -> Plan:
    """The plan of a timeline for a model; the tokenizer says which words it does not read.

    Raises:
        RequestError: the model cannot make it.
    """
    return _planned(timeline, on_canvas(timeline, model), model, tokenizer)


def reworded(
    plan: Plan, prompt: str, model: ModelConfig, tokenizer: Tokenizer | None = None
) -> Plan:
    """The plan for another prompt; both share the given frames."""
    timeline = dataclasses.replace(plan.timeline, prompt=prompt)
    return _planned(timeline, plan.canvas, model, tokenizer)


def _planned(
    timeline: Timeline, canvas: Canvas, model: ModelConfig, tokenizer: Tokenizer | None
) -> Plan:
    ratio = model.vae.temporal_ratio
    longest = 1 + (model.max_frames - 1) // ratio  # latents of a window
    if longest == 1 and canvas.frames > 1:
        raise RequestError(f"{model.name} makes pictures only: ask for 1 frame.")
    context = max(longest // 4, 1)
    script = spans.script(timeline, canvas)
    notes = canvas.notes + script.notes
    if canvas.known.all():
        notes += ("Every frame of the result is given: nothing is made.",)
    timed, references = guiding(canvas, ratio)
    tiles = tiles_of(model, canvas.width, canvas.height)
    if tiles is not None:
        tiles = dataclasses.replace(tiles, references=len(anchors_of(references, ratio)))
        side = model.vae.spatial_ratio
        notes += (
            f"It is made in {len(tiles)} tiles of {side * tiles.width}x{side * tiles.height} that "
            "overlap.",
        )
    cuts = tuple(sorted({*canvas.cuts, *script.cuts}))
    in_place = model.conditioning != "anchors"
    segments = segments_of(canvas, cuts, timed, ratio, longest, context, in_place)
    abilities.check(
        model,
        canvas,
        segments,
        guided=bool(timed),
        references=bool(references),
        tiled=tiles is not None,
        moved=bool(timeline.source_prompt),
    )
    return Plan(
        timeline,
        canvas,
        segments,
        cuts,
        context,
        tuple(references),
        tiles,
        ratio,
        script,
        notes,
        tuple(_warnings(timeline, script, model, tokenizer)),
    )


def _warnings(
    timeline: Timeline, script: Script, model: ModelConfig, tokenizer: Tokenizer | None
) -> list[str]:
    found, known = [], set(model.vocabulary)
    names = {span.text: span.name for span in timeline.spans}
    texts = {
        "The prompt": script.prompt,
        "The source prompt": " ".join(spans.shots(timeline.source_prompt)),
    }
    texts |= {
        names.get(line.text) or f"The text {line.text[:40]!r}": line.text for line in script.lines
    }
    words = set().union(*map(words_of, texts.values()))
    unknown, around = words - known if known else set(), set(words_of(timeline.style))
    for of_style, those in (("", unknown - around), (" of the style", unknown & around)):
        if those:
            said = shorten(", ".join(sorted(those)), 200)
            found.append(
                f"{model.name} was trained on a small world and cannot know{of_style}: {said}."
            )
    for name, text in (texts | {"The negative prompt": timeline.negative}).items():
        if tokenizer is not None and (lost := tokenizer.lost(text)):
            read = text.removesuffix(lost)
            if lost[0].isalnum() and read[-1:].isalnum():  # a word that is read in part
                lost = read.split()[-1] + lost
            of_style = timeline.style.rstrip().endswith(lost.strip())
            end = "its end, which the style adds," if of_style else "its end"
            found.append(
                f"{name} is longer than the {model.text.max_length} tokens that {model.name} "
                f"reads; {end} is left out: {shorten(lost, 80)}"
            )
    return found
