"""The stretches of a canvas that are made, each on a latent grid, window by window.

What is unknown falls into segments. Each has a latent grid of its own that begins with known frames
where there are some, since a causal VAE encodes those in place exactly. Known frames further on are
anchors: clips of their own, with their true positions. A segment that is longer than the model is
made window by window. Windows overlap, and what one has made, the next knows as latents: nothing
is decoded and encoded again on the way.
"""

import dataclasses
import math
from collections.abc import Sequence

from vjax import spans
from vjax.anchors import Anchor, Clip, anchors_of, seen
from vjax.canvas import Canvas, cuts_around, runs


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

    def end(self, frames: int) -> int:
        """The frame that it ends before, of a canvas of so many."""
        return frames if self.cut is None else self.cut

    def last(self, frames: int, ratio: int) -> int:
        """The last frame on its grid, of a canvas of so many."""
        return min(self.end(frames) - 1, self.start + ratio * (self.latents - 1))

    @property
    def backwards(self) -> bool:
        """Whether later windows are made first."""
        return self.windows[0].start > self.windows[-1].start


def segments_of(
    canvas: Canvas,
    cuts: Sequence[int],
    guides: Sequence[Clip],
    ratio: int,
    longest: int,
    context: int,
    in_place: bool = False,
) -> tuple[Segment, ...]:
    """What is made of a canvas; each window sees its anchors, inside of it or soon after it.

    Args:
        cuts: frames that do not see those before them.
        guides: what is an anchor beside the known frames.
        ratio: frames of a latent.
        longest: latents of a window; `context`, by how many windows overlap at least.
        in_place: what is known later on lies on the grid too.
    """
    found = []
    for segment in _segments(canvas, cuts, ratio, longest, context):
        if in_place:
            # Of fewer frames than a latent takes the first alone is told.
            later = (clip for clip in segment.clips if clip.at >= segment.first)
            clips = tuple(_on_grid(clip, segment.start, ratio) for clip in later)
            segment = dataclasses.replace(segment, clips=clips)
        before, after = cuts_around(cuts, segment.first, segment.stop)
        timed = [guide for guide in guides if before <= guide.at < after]
        anchors = anchors_of((*segment.clips, *timed), ratio)
        inside, carried = [], []
        for number, window in enumerate(segment.windows):
            first, last = (
                segment.start + ratio * n for n in (window.start, window.stop - 1 + context)
            )
            inside.append((first, last))
            # What was made after it is an anchor to a window, and so is the start of a loop.
            beside = segment.backwards and number and not in_place
            carried.append(context if beside or closes(canvas, segment, window) else 0)
        each = seen(anchors, inside, carried, reach=ratio * longest)
        windows = tuple(
            dataclasses.replace(window, anchors=anchors)
            for window, anchors in zip(segment.windows, each, strict=True)
        )
        found.append(dataclasses.replace(segment, windows=windows))
    return tuple(found)


def _on_grid(clip: Clip, start: int, ratio: int) -> Clip:
    """A clip without the frames before the first that ends a latent of a grid, where it has one."""
    spare = int(start - clip.at) % ratio
    if spare >= clip.count:
        return clip
    count = 1 + ratio * ((clip.count - 1 - spare) // ratio)
    return dataclasses.replace(clip, at=clip.at + spare, count=count)


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
    low, high = cuts_around(cuts, first, stop)
    before, after = int(max(before, low)), int(min(after, high))
    cut = None if high == math.inf else int(high)
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
