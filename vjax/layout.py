"""A timeline in a model's terms: the size, the frame rate and the length of what will be made."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from vjax.canvas import Canvas, Given, Guide, ends_of, runs
from vjax.config import ModelConfig
from vjax.reel import Reel
from vjax.sizes import check_larger, check_size, fitting_size, nearest_size
from vjax.timeline import Anchor, Gap, Piece, RequestError, Timeline

LONGEST_SECONDS = 600  # of one result
HEAD = 32  # frames of the start of a loop that are seen after its end, at most
MOST_REFERENCES = 8  # latents that every window of a video has beside its own; a picture is one


def check_rate(fps: float) -> None:
    """Raises RequestError for a frame rate that a result cannot have."""
    if not 1 <= fps <= 120:
        raise RequestError(f"A frame rate of {fps:g} cannot be made: choose from 1 to 120.")


def on_canvas(timeline: Timeline, model: ModelConfig) -> Canvas:
    """Puts a timeline into the terms of a model.

    Raises:
        RequestError: a size, length, time or frame rate that cannot be made.
    """
    fps = model.fps if timeline.fps is None else timeline.fps
    check_rate(fps)
    length = _length(timeline, fps)
    if timeline.size is not None:
        width, height = timeline.size
    elif timeline.pieces:
        width, height = _size_of(timeline, model)
    else:
        width, height = model.width, model.height
    check_size(model, width, height, timeline.enlarges)
    if timeline.enlarges and timeline.pieces:
        _, high, wide, _ = timeline.pieces[0].pixels.shape
        check_larger(model, (wide, high), (width, height))
    notes: list[str] = []
    fitted = [_fitted(piece, model, width, height, fps, notes) for piece in timeline.pieces]
    if timeline.loop and not fitted:
        length = _loop_length(timeline, length, model)
    places, frames = _laid(
        timeline.film, [len(given) for given, _ in fitted], fps, length, model.frames
    )
    check_length(frames, fps)
    given = [
        Given(piece, at, *each)
        for piece, at, each in zip(timeline.pieces, places, fitted, strict=True)
    ]
    guides = tuple(
        _guide(anchor, model, (width, height), fps, frames, notes) for anchor in timeline.anchors
    )
    _check_guides(timeline, guides, model)
    cuts = _cuts(timeline, given, fps, notes)
    hidden = 0
    if timeline.loop and given:
        first = given[0]
        hidden = min(len(first.frames), HEAD)
        start = slice(hidden)
        head = Given(first.piece, frames, first.frames.taken(start), first.strength.taken(start))
        given.append(head)
    said = tuple(dict.fromkeys(notes))
    total = frames + hidden
    canvas = Canvas(
        total,
        width,
        height,
        fps,
        tuple(given),
        said,
        hidden,
        timeline.loop,
        tuple(cuts),
        guides,
    )
    if not (timeline.prompt.strip() or timeline.spans or canvas.known.all()):
        raise RequestError("The prompt is empty: say what the video should show.")
    return canvas


def _size_of(timeline: Timeline, model: ModelConfig) -> tuple[int, int]:
    """That of what is given, where the model makes it, or one of its shape.

    A picture from which a clip is made is only looked at, so it has the model's own area.
    """
    frames, height, width, _ = timeline.pieces[0].pixels.shape
    shown = frames > 1 or not any(isinstance(item, Gap) for item in timeline.film)
    if shown and nearest_size(model, width, height) == (width, height):
        return width, height
    return fitting_size(model, width, height)


def _loop_length(timeline: Timeline, length: int | None, model: ModelConfig) -> int:
    """The frames of a loop of which nothing is given: whole latents, where it is one window."""
    ratio = model.vae.temporal_ratio
    frames = model.frames if length is None else length
    window = ratio * (1 + (model.max_frames - 1) // ratio)
    if frames > window or frames % ratio == 0:
        return frames
    low, high = ratio * (frames // ratio), ratio * (frames // ratio + 1)
    if timeline.frames is not None:
        near = f"{low} or {high}" if low else f"{high}"
        raise RequestError(f"{model.name} makes loops of {near} frames, not of {frames}.")
    return low if low and (length is None or frames - low < high - frames) else high


def _laid(
    film: Sequence[Piece | Gap], counts: Sequence[int], fps: float, length: int | None, native: int
) -> tuple[list[int], int]:
    """The frame at which each piece begins, and how many frames there are in all.

    Args:
        counts: the frames of each piece.
        length: of the result; None: that of the film, or `native` where a gap is open.
    """
    places: list[int] = []
    end, floating = 0, None  # the end of what is laid; the first piece after an open gap
    sizes = iter(counts)
    for item in film:
        if isinstance(item, Gap):
            if item.seconds is not None:
                end += _frames(item.seconds, fps)
            elif floating is None:
                floating = len(places)
            else:
                raise RequestError("Two gaps are open: say how long one of them is, in seconds.")
            continue
        count = next(sizes)
        if item.at is not None:
            at = _frame_at(item.at, fps)
            if at < end:
                raise RequestError(
                    f"{_called(item)} would begin before the end of what comes before it: "
                    f"{end / fps:g} is the first time for it."
                )
            if floating is not None:
                places[floating:] = [place + at - end for place in places[floating:]]
                floating = None
            end = at
        places.append(end)
        end += count
    if length is None:
        length = end if floating is None else max(end, native)
    if length < end:
        last = [item for item in film if isinstance(item, Piece)][-1:]
        if last and last[0].at is not None and places[-1] + counts[-1] == end:
            raise RequestError(
                f"{_called(last[0])} would end after a result of {length} frames: "
                f"{max(length - counts[-1], 0) / fps:g} is the last time for it."
            )
        raise RequestError(
            f"The given frames and those to make are {end} in all, at {fps:g} a second, which is "
            f"more than a result of {length}."
        )
    if floating is not None:
        places[floating:] = [place + length - end for place in places[floating:]]
    return places, length


def _called(piece: Piece) -> str:
    return f"{piece.name or 'What is given'} at {piece.at:g} seconds"


def _cuts(timeline: Timeline, given: Sequence[Given], fps: float, notes: list[str]) -> list[int]:
    """The frames that begin with a cut: as the user says, or soon after what is given before."""
    found = [each.at for each in given if each.piece.cut and each.at]
    for before, after in zip(given, given[1:], strict=False):
        soon = (after.at - before.stop) / fps < timeline.cut_within
        if soon and after.piece.cut is None:
            found.append(after.at)
            notes.append(
                f"{_called(after.piece)} begins with a cut, less than {timeline.cut_within:g} "
                "seconds after what is given before it."
            )
    return found


def _length(timeline: Timeline, fps: float) -> int | None:
    """How many frames were asked for; None where the user left it open."""
    if timeline.frames is not None and timeline.seconds is not None:
        raise RequestError("Give either frames or seconds, not both.")
    frames = timeline.frames
    if timeline.seconds is not None:
        if not 0 < timeline.seconds < math.inf:
            raise RequestError(f"{timeline.seconds:g} seconds is no length: it must be positive.")
        check_length(timeline.seconds * fps, fps)
        frames = max(round(timeline.seconds * fps), 1)
    if frames is not None:
        if frames < 1:
            raise RequestError(f"A video has at least 1 frame, not {frames}.")
        check_length(frames, fps)
    return frames


def _frames(seconds: float, fps: float) -> int:
    """How many frames a gap of so many seconds has."""
    if not 0 < seconds < math.inf:
        raise RequestError(f"{seconds:g} seconds cannot be added: it must be positive.")
    check_length(seconds * fps, fps)
    if round(seconds * fps) < 1:
        raise RequestError(
            f"{seconds:g} seconds are less than one frame at {fps:g} frames a second: add "
            f"{1 / fps:.2g} at least."
        )
    return round(seconds * fps)


def _frame_at(seconds: float, fps: float) -> int:
    """The frame that is shown at a time."""
    if not 0 <= seconds < math.inf:
        raise RequestError(f"{seconds:g} seconds is no time of a video: it begins at 0.")
    check_length(seconds * fps, fps)
    return round(seconds * fps)


def check_length(frames: float, fps: float) -> None:
    """Raises RequestError for more frames than a result has."""
    longest = int(LONGEST_SECONDS * fps)
    if frames > longest:
        raise RequestError(
            f"A video is at most {LONGEST_SECONDS} seconds long, {longest} frames at {fps:g} a "
            "second: ask for less."
        )


def _fitted(
    piece: Piece, model: ModelConfig, width: int, height: int, fps: float, notes: list[str]
) -> tuple[Reel, Reel]:
    """The frames of a piece and their strength in a size and frame rate; notes what was done."""
    from vjax import video as media

    given, strength = Reel.of(piece.pixels), Reel.of(piece.strength)
    count = len(given)
    notes += piece.notes
    if given.shape[1:3] != (height, width):
        given = _cropped(given, width, height, notes)
        if strength.shape[1:3] != (1, 1):
            strength = strength.mapped(lambda levels: media.fit_levels(levels, width, height))
    from_fps = model.fps if piece.fps is None else piece.fps
    if not 0.01 <= from_fps <= 1000:
        raise RequestError(
            f"The given frames cannot have a rate of {from_fps:g}: it is from 0.01 to 1000."
        )
    if count > 1 and not math.isclose(from_fps, fps, rel_tol=1e-3):
        index = media.resample(np.arange(count), from_fps, fps)
        _check_resampled(strength, index, from_fps, fps)
        given, strength = given.taken(index), strength.taken(index)
        notes.append(
            f"The given video has {from_fps:g} frames a second; it was resampled to {fps:g}."
        )
    return given, strength


def _cropped(
    frames: UInt8[Reel, "T h w 3"], width: int, height: int, notes: list[str]
) -> UInt8[Reel, "T H W 3"]:
    """Frames in a size, by the one rule that there is for it; notes it."""
    from vjax import video as media

    if frames.shape[1:3] == (height, width):
        return frames
    notes.append(
        f"The given frames are {frames.shape[2]}x{frames.shape[1]}; they were scaled and "
        f"cropped at the centre to {width}x{height}."
    )
    return frames.mapped(lambda some: media.fit(some, width, height))


def _guide(
    anchor: Anchor,
    model: ModelConfig,
    size: tuple[int, int],
    fps: float,
    frames: int,
    notes: list[str],
) -> Guide:
    from vjax import video as media

    notes += anchor.notes
    own = model.fps if anchor.fps is None else anchor.fps
    if not 0.01 <= own <= 1000:
        raise RequestError(f"What guides cannot have a rate of {own:g}: it is from 0.01 to 1000.")
    if anchor.at is not None and not 0 <= anchor.at <= frames / fps:
        raise RequestError(
            f"Nothing can guide at {anchor.at:g} seconds: the video lasts from 0 to "
            f"{frames / fps:g}."
        )
    at = None if anchor.at is None else round(anchor.at * fps, 9)  # a frame, where it is one
    frames = Reel.of(anchor.pixels)
    if model.conditioning == "control" and frames.shape[1:3] != size[::-1]:
        # As its references are prepared: whole, on white.
        fitted = frames.mapped(lambda some: media.fit_inside(some, *size))
    else:
        fitted = _cropped(frames, *size, notes)
    return Guide(at, fitted, fps / own)


def _check_guides(timeline: Timeline, guides: Sequence[Guide], model: ModelConfig) -> None:
    """Raises RequestError for references that are too many, or times in a loop that has none."""
    ratio = model.vae.temporal_ratio
    latents = sum(math.ceil((len(g.frames) - 1) / ratio) + 1 for g in guides if g.at is None)
    if latents > MOST_REFERENCES:
        raise RequestError(
            f"At most {MOST_REFERENCES} pictures can be references, and each {ratio} frames of a "
            f"clip count as one: here are {latents}."
        )
    if timeline.loop and not timeline.pieces and any(guide.at is not None for guide in guides):
        raise RequestError(
            "A loop from words has no first frame, so nothing can guide it at a time: give what "
            "guides it no time."
        )


def _check_resampled(strength, index: np.ndarray, from_fps: float, fps: float) -> None:
    """Raises RequestError where a range that is kept, or one between, has no frame any more."""
    kept = ends_of(strength)[0] >= 1
    for value in (True, False):
        for start, stop in runs(kept == value):
            if not ((index >= start) & (index < stop)).any():
                what = "could be kept" if value else "would be made"
                raise RequestError(
                    f"At {fps:g} frames a second no frame shows what {start}:{stop} are of the "
                    f"given {from_fps:g}, so nothing of it {what}: choose a longer range, or make "
                    f"the video at {from_fps:g}."
                )
