"""What is made of a timeline and in which order: data that exists before anything runs.

What is unknown falls into segments. Each has a latent grid of its own that begins with known frames
where there are some, since a causal VAE encodes those in place exactly. Known frames further on are
anchors: clips of their own, with their true positions. A segment that is longer than the model is
made window by window. Windows overlap, and what one has made, the next knows as latents: nothing
is decoded and encoded again on the way.
"""

import dataclasses
import math
from collections.abc import Sequence
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vjax import spans
from vjax.anchors import Anchor, Clip, anchors_of, guiding, seen
from vjax.canvas import Canvas, on_canvas, runs
from vjax.config import ModelConfig
from vjax.models.text import words_of
from vjax.spans import Line, Script
from vjax.tiles import Tiles, tiles_of
from vjax.timeline import RequestError, Timeline
from vjax.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Window:
    """Latents `start` to `stop` - 1 of a segment, which the model makes at once."""

    start: int
    stop: int
    anchors: tuple[Anchor, ...] = ()  # what it sees out of order


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of the canvas that is made on one latent grid."""

    start: int  # the frame of its first latent; each later latent is four frames (or as the VAE)
    first: int  # the frames from `first`
    stop: int  # to `stop` - 1 are its result, but for those that are known
    latents: int
    prefix: int  # so many latents are given frames in place
    clips: tuple[Clip, ...]  # those that are known later on
    windows: tuple[Window, ...]  # in the order in which they are made
    ring: bool = False  # its end meets its start: every latent is four frames, the first as well
    cut: int | None = None  # the first frame after it that it does not see, if there is one

    def frames_of(self, window: Window, ratio: int) -> list[spans.Frames]:
        """The frames that each latent of a window stands for: the very first is one."""
        stops = [(n, self.start + ratio * n + 1) for n in range(window.start, window.stop)]
        found = [(stop - (ratio if n else 1), stop) for n, stop in stops]
        if self.cut is None:
            return found
        return [(min(start, self.cut - 1), min(stop, self.cut)) for start, stop in found]

    @property
    def backwards(self) -> bool:
        """Whether later windows are made first."""
        return self.windows[0].start > self.windows[-1].start


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

    def strip(self, columns: int = 16) -> UInt8[np.ndarray, "H W 3"]:
        """A picture of what is known before anything runs: frames from first to last.

        What will be made is gray where nothing is known of it, and what is known in part shines
        through; a green line is under frames that are kept, a gray one under those that are made.
        A line above says which text speaks there: those of the spans take turns of two colours.
        """
        from vjax.video import fit

        index = (
            np.rint(np.linspace(0, self.frames - 1, min(columns, self.frames))).astype(int).tolist()
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
            for start, stop in runs(np.any(given.strength > 0, axis=(1, 2, 3)))
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
    longest = latents_of(model.max_frames, model)
    if longest == 1 and canvas.frames > 1:
        raise RequestError(f"{model.name} makes pictures only: ask for 1 frame.")
    context, ratio = max(longest // 4, 1), model.vae.temporal_ratio
    script = spans.script(timeline, canvas)
    notes = canvas.notes + script.notes
    if canvas.known.all():
        notes += ("Every frame of the result is given: nothing is made.",)
    tiles = tiles_of(model, canvas.width, canvas.height)
    if tiles is not None:
        side = model.vae.spatial_ratio
        notes += (
            f"It is made in {len(tiles)} tiles of {side * tiles.width}x{side * tiles.height} that "
            "overlap.",
        )
    timed, references = guiding(canvas, ratio)
    cuts = sorted({*canvas.cuts, *script.cuts})
    segments = _segments(canvas, cuts, ratio, longest, context)
    return Plan(
        timeline,
        canvas,
        _with_anchors(segments, timed, canvas, ratio, longest, context),
        context,
        tuple(references),
        tiles,
        ratio,
        script,
        notes,
        tuple(_warnings(timeline, model, tokenizer)),
    )


def latents_of(frames: int, model: ModelConfig) -> int:
    """How many whole latents fit into so many frames."""
    return 1 + (frames - 1) // model.vae.temporal_ratio


def _with_anchors(
    segments: Sequence[Segment],
    guides: Sequence[Clip],
    canvas: Canvas,
    ratio: int,
    longest: int,
    context: int,
) -> tuple[Segment, ...]:
    """The segments with what each of their windows sees: inside of it, or soon after it."""
    found = []
    for segment in segments:
        anchors = anchors_of((*segment.clips, *guides), ratio)
        inside, carried = [], []
        for number, window in enumerate(segment.windows):
            first, last = (
                segment.start + ratio * n for n in (window.start, window.stop - 1 + context)
            )
            inside.append((first, last))
            # What was made after it is an anchor to a window, and so is the start of a loop.
            beside = segment.backwards and number
            carried.append(context if beside or closes(canvas, segment, window) else 0)
        each = seen(anchors, inside, carried, reach=ratio * longest)
        windows = tuple(
            dataclasses.replace(window, anchors=anchors)
            for window, anchors in zip(segment.windows, each, strict=True)
        )
        found.append(dataclasses.replace(segment, windows=windows))
    return tuple(found)


def closes(canvas: Canvas, segment: Segment, window: Window) -> bool:
    """Whether what follows a window is the start of a loop that is made already."""
    loop = canvas.loop and not canvas.given and not segment.ring
    return loop and window.start > 0 and window.stop == segment.latents


def _segments(
    canvas: Canvas, cuts: Sequence[int], ratio: int, longest: int, context: int
) -> tuple[Segment, ...]:
    """The gaps of a canvas, those together that one window can hold or that are close.

    Nothing is seen beyond a cut.
    """
    if canvas.loop and not canvas.given and canvas.frames <= ratio * longest:
        latents = canvas.frames // ratio
        # All of it lies before its start once more, for the decoder to come from: a causal VAE
        # remembers further back than one would think.
        lead = latents
        window = Window(lead, lead + latents)
        start = -1 - ratio * (lead - 1)
        return (Segment(start, 0, canvas.frames, window.stop, 0, (), (window,), ring=True),)
    whole = 1 + ratio * (longest - 1)  # frames of the longest window
    near = 2 * (1 + ratio * (context - 1))  # a known run as long serves both of its neighbours
    known = canvas.known
    stretches: list[tuple[int, int]] = []
    for gap in _between(runs(~known), cuts):
        if stretches:
            start, stop = stretches[-1]
            lead = 1 + ratio * (context - 1) if start else 0
            cut = any(stop <= frame <= gap[0] for frame in cuts)
            close = gap[0] - stop < near or gap[1] - start + lead <= whole
            if close and not cut:
                stretches[-1] = (start, gap[1])
                continue
        stretches.append(gap)
    edges = [0, *(edge for gap in stretches for edge in gap), canvas.frames]
    return tuple(
        _segment(
            canvas,
            first,
            stop,
            edges[2 * i],
            edges[2 * i + 3],
            cuts,
            ratio,
            longest,
            context,
        )
        for i, (first, stop) in enumerate(stretches)
    )


def _between(gaps: Sequence[tuple[int, int]], cuts: Sequence[int]) -> list[tuple[int, int]]:
    """The gaps, each parted at the cuts within it."""
    found: list[tuple[int, int]] = []
    for start, stop in gaps:
        edges = [start, *(cut for cut in cuts if start < cut < stop), stop]
        found += zip(edges, edges[1:], strict=False)
    return found


def _segment(
    canvas: Canvas,
    first: int,
    stop: int,
    before: int,  # the known frames before `first` begin here,
    after: int,  # and those after `stop` end here
    cuts: Sequence[int],
    ratio: int,
    longest: int,
    context: int,
) -> Segment:
    before = max([before, *(cut for cut in cuts if cut <= first)])
    cut = min((cut for cut in cuts if cut >= stop), default=None)
    after = after if cut is None else min(after, cut)
    given = first - before
    if given > ratio or given == 1:
        # The grid is laid so that the first frame to make begins a latent.
        available = 1 + (given - 1) // ratio
        made = math.ceil((stop - first) / ratio)
        beside = min(after - stop, 1 + ratio * (context - 1))
        covering = math.ceil((stop - first + beside) / ratio) - made
        least = min(available, context)
        windows = _count(least + made, longest, context)
        if _count(least + made + covering, longest, context) > windows:
            covering = 0
        prefix = min(available, max(least, longest - math.ceil((made + covering) / windows)))
        start, latents = first - 1 - ratio * (prefix - 1), prefix + made + covering
    else:
        # Fewer given frames than a latent takes begin the grid, and those after the first are
        # anchors.
        start, prefix = before, min(given, 1)
        beside = min(after - stop, 1 + ratio * (context - 1))
        latents = 1 + math.ceil((stop - start - 1) / ratio)
        covering = 1 + math.ceil((stop + beside - start - 1) / ratio)
        if _count(covering, longest, context) == _count(latents, longest, context):
            latents = covering
    in_place = start + 1 + ratio * (prefix - 1) if prefix else start
    later = canvas.known.copy()
    later[:in_place] = False
    later[stop + beside :] = False
    clips = [clip for run in runs(later) for clip in _clips(*run, ratio, context)]
    backwards = not prefix and after > stop
    return Segment(
        start,
        first,
        stop,
        latents,
        prefix,
        tuple(clips),
        _windows(latents, longest, context, backwards),
        cut=cut,
    )


def _count(latents: int, longest: int, context: int) -> int:
    """How many windows so many latents take."""
    return 1 + math.ceil(max(latents - longest, 0) / max(longest - context, 1))


def _windows(latents: int, longest: int, context: int, backwards: bool) -> tuple[Window, ...]:
    """Windows of one length, evenly spread, each of which overlaps the next by the context."""
    if latents <= longest:
        return (Window(0, latents),)
    steps = _count(latents, longest, context) - 1
    starts = [i * (latents - longest) // steps for i in range(steps + 1)]
    windows = [Window(start, start + longest) for start in starts]
    return tuple(windows[::-1] if backwards else windows)


def _clips(start: int, stop: int, ratio: int, context: int) -> list[Clip]:
    """The clips that a known run is encoded as.

    Of a run that is long, both ends serve; what is left over is less than a latent, and its last
    frame speaks for it.
    """
    whole = 1 + ratio * (context - 1)
    if stop - start > 2 * whole:
        return [Clip(start, whole, ratio), Clip(stop - whole, whole, ratio)]
    count = 1 + ratio * ((stop - start - 1) // ratio)
    clips = [Clip(start, count, ratio)]
    return clips if start + count == stop else [*clips, Clip(stop - 1, 1, ratio)]


def _warnings(timeline: Timeline, model: ModelConfig, tokenizer: Tokenizer | None) -> list[str]:
    found, known = [], set(model.vocabulary)
    texts = {"prompt": timeline.prompt}
    texts |= {span.name or f"text {span.text[:40]!r}": span.text for span in timeline.spans}
    words = set().union(*map(words_of, texts.values()))
    if known and words - known:
        unknown = shorten(", ".join(sorted(words - known)), 200)
        found.append(f"{model.name} was trained on a small world and cannot know: {unknown}.")
    for name, text in (texts | {"negative prompt": timeline.negative}).items():
        if tokenizer is not None and (lost := tokenizer.lost(text)):
            found.append(
                f"The {name} is longer than the {model.text.max_length} tokens that {model.name} "
                f"reads; its end is left out: {shorten(lost, 80)}"
            )
    return found
