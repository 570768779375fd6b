"""Videos and their sound, through PyAV.

Nothing that a file says can open another one: the demuxers are those of single files, they read
from a file that is open already, and opening any other is refused.
"""

import contextlib
import functools
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vjax.video import colour
from vjax.video.clip import MAX_PIXELS, MediaError, too_large, transparent
from vjax.video.fitting import coarse, fit
from vjax.video.pictures import Shown, Size
from vjax.video.sound import Sound

_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,m4v,h264,hevc,obu,ivf,ogg,"
    "asf,yuv4mpegpipe,mxf,nut,dv,rm,wtv,vc1,mjpeg,wav,mp3,aac,flac,"
    "jpegxl_pipe,jpegxl_anim,j2k_pipe,ppm_pipe,pgm_pipe,pam_pipe,qoi_pipe,sgi_pipe"
)
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]")


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Any]:
    """The PyAV container of a single file.

    Raises:
        MediaError: not a video, or damaged so that nothing can be read.
    """
    import av

    def refuse(url: str, *_):
        raise MediaError(f"{path} refers to another file ({url}), which is not read.")

    options = {"format_whitelist": _DEMUXERS, "protocol_whitelist": ""}
    options["max_pixels"] = str(MAX_PIXELS)
    # Tags may be in any encoding, which PyAV minded until version 19.
    lenient = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    with path.open("rb") as file:
        head = file.read(64)
        if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
            raise MediaError(f"{path} is a tiled picture (heic); save it as jpg or png first.")
        if head.lstrip().startswith(_PLAYLISTS):
            raise MediaError(f"{path} is not a video but a list of others; give one of those.")
        file.seek(0)
        try:
            container = av.open(
                file,
                options=options,
                buffer_size=1 << 18,
                io_open=refuse,
                **lenient,
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None)
            why = f" ({reason})" if reason else ""
            raise MediaError(
                f"{path} is not a video or picture, or damaged beyond reading{why}."
            ) from error
        with container:
            yield container


class Video:
    """An open video, decoded as its frames are asked for."""

    careful = False  # with the duration of the last frame

    def __init__(self, path: pathlib.Path, container: Any):
        import av
        from av.stream import Disposition
        from av.video.reformatter import VideoReformatter

        self.path, self.container = path, container
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic  # the cover of an album
        ]
        if not streams:
            raise MediaError(f"{path} has no pictures in it, only sound or data; give a video.")
        self.stream = streams[0]
        context = self.stream.codec_context
        if context is None:
            raise MediaError(
                f"{path} is of a kind that cannot be decoded here; save it as mp4 or png."
            )
        if context.width * context.height > MAX_PIXELS:
            raise too_large(path, context.width, context.height)
        rate = self.stream.average_rate or self.stream.guessed_rate
        self.declared = float(rate) if rate and 0.01 <= float(rate) <= 1000 else None
        self.still = container.format.name.endswith("_pipe")
        self.silent = not container.streams.audio
        self.count = self.stream.frames  # 0 where that is not known
        self.origin = float((self.stream.start_time or 0) * self.stream.time_base)
        if self.stream.duration is not None:
            self.expected = float(self.stream.duration * self.stream.time_base)
        else:
            self.expected = (container.duration or 0) / av.time_base - self.origin
        self.tick = float(self.stream.time_base)
        self.scaler = VideoReformatter()
        self.broken = self.timed = False
        self.notes: dict[str, None] = {}  # in order, each once

    def frames(self, begin: float = 0.0) -> Iterator[Shown]:
        """Those that start at `begin` seconds or later. Pixels are to be taken before the next."""
        matrix = rotation = None
        for count, (frame, colours) in enumerate(self._progressive(begin)):
            if matrix is None or frame.rotation != rotation:
                # Not of each frame: asked for it, a frame is freed late.
                matrix, rotation = _display_matrix(frame), frame.rotation
            start = _time(frame) - self.origin
            if not math.isnan(start):
                self.timed = True
            elif self.declared and not self.timed:  # a bare stream of pictures
                start = count / self.declared
            else:
                raise MediaError(
                    f"{self.path} does not say when its frames are shown; convert it to mp4 first."
                )
            if start < begin - self.tick:
                continue
            aspect = self.stream.sample_aspect_ratio
            width = max(1, round(frame.width * float(aspect or 1)))
            if width * frame.height > MAX_PIXELS:
                raise too_large(self.path, width, frame.height)
            size = (frame.height, width) if _swaps(matrix) else (width, frame.height)
            make = functools.partial(self._pixels, frame, colours, (width, frame.height), matrix)
            yield start, float((frame.duration or 0) * frame.time_base), size, make

    def _decoded(self, begin: float) -> Iterator[Any]:
        count, begin = 0, self.origin + begin
        try:
            for frame in _decode(self.container, self.stream, begin):
                yield frame
                count += 1
        except _Damaged:
            # Threads lose whole frames that are near a damaged one: the rest goes without them.
            with opened(self.path) as container:
                stream = container.streams[self.stream.index]
                frames = _decode(container, stream, begin, self._note_damage)
                yield from itertools.islice(frames, count, None)

    def _note_damage(self) -> None:
        self.broken = True

    def _progressive(self, begin: float) -> Iterator[tuple[Any, tuple[int, int, int]]]:
        """Frames with whole pictures, and the codes that say what their colours mean."""
        import av

        def drained(graph, last):
            if last:
                graph.vpush(None)
            while True:
                try:
                    yield graph.vpull()
                except (av.BlockingIOError, av.EOFError):
                    return

        graph, made_for, colours = None, None, None
        for frame in self._decoded(begin):
            kind = (frame.width, frame.height, frame.format.name)
            if graph and kind != made_for:
                yield from ((f, colours) for f in drained(graph, last=True))
                graph = None
            colours = int(frame.color_trc), int(frame.color_primaries), int(frame.colorspace)
            if graph is None and not frame.interlaced_frame:
                yield frame, colours
                continue
            if graph is None:
                self.notes.setdefault(
                    f"{self.path} is interlaced: whole frames were made of its half frames."
                )
                graph, made_for = av.filter.Graph(), kind
                source = graph.add_buffer(None, *kind, time_base=frame.time_base)
                weave = graph.add("bwdif", "mode=send_frame:deint=interlaced")
                graph.link_nodes(source, weave, graph.add("buffersink"))
                graph.configure()
            graph.vpush(frame)
            yield from ((f, colours) for f in drained(graph, last=False))
        if graph:
            yield from ((f, colours) for f in drained(graph, last=True))

    def _pixels(self, frame: Any, colours, size: Size, matrix, target: Size):
        """The frame's pixels, upright and fitted to a size."""
        from av.video.reformatter import ColorRange, Colorspace, Interpolation

        transfer, primaries, space = colours
        exact = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        wanted = target[::-1] if _swaps(matrix) else target
        width, height = coarse(size, wanted)
        options: dict = {"interpolation": exact | Interpolation.BICUBIC}
        options["dst_color_range"] = ColorRange.JPEG
        if space in (0, 2, 3) and not frame.format.is_rgb:  # not said: by size, as players do
            hd = frame.height >= 720
            options["src_colorspace"] = Colorspace.ITU709 if hd else Colorspace.ITU601
        alpha = frame.format.has_palette or any(c.is_alpha for c in frame.format.components)
        meaning = colour.meaning(transfer, primaries)
        form = "rgb48le" if meaning else "rgba" if alpha else "rgb24"
        pixels = self.scaler.reformat(frame, width, height, form, **options).to_ndarray()
        if meaning:
            self.notes.setdefault(f"{self.path}: its colours were mapped from {meaning} to sRGB.")
            pixels = colour.to_srgb(pixels, transfer, primaries)
        elif alpha:
            opacity = pixels[..., 3:].astype(np.uint16)
            if opacity.min() < 255:
                self.notes.setdefault(transparent(self.path))
            pixels = ((pixels[..., :3] * opacity + 127) // 255).astype(np.uint8)
        return fit(_turned(pixels, matrix)[None], *target)[0]


class _Damaged(Exception):
    """A part of a stream cannot be decoded, or seems to be missing."""


def _decode(
    container: Any, stream: Any, begin: float, damaged: Callable[[], None] | None = None
) -> Iterator[Any]:
    """The frames of a stream from some time before `begin` on, as the stream counts seconds.

    Args:
        damaged: is called for each part that cannot be decoded, and is left out. Without it,
            decoding is quicker, and the first such part ends it.

    Raises:
        _Damaged: there is such a part, or it looks like that.
    """
    import av

    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in ("vp8", "vp9"):
        # ffmpeg's own decoders do not see their alpha.
        decoder = av.CodecContext.create({"vp8": "libvpx", "vp9": "libvpx-vp9"}[decoder.name], "r")
    decoder.options = {"max_pixels": str(MAX_PIXELS)}
    if damaged is None:
        decoder.thread_type = "AUTO"
    else:
        decoder.thread_count = 1
    first = stream.start_time or 0
    if begin > float(first * stream.time_base):
        with contextlib.suppress(av.FFmpegError):  # no index: read from the start
            container.seek(int(begin / stream.time_base), stream=stream)
        frames = _frames(container, stream, decoder, damaged)
        frame = next(frames, None)
        if frame is not None and not _time(frame) > begin:
            yield frame
            yield from frames
            return
        with contextlib.suppress(av.FFmpegError):
            container.seek(first, stream=stream)  # some seek too far
        decoder.flush_buffers()
    yield from _frames(container, stream, decoder, damaged)


def _time(frame: Any) -> float:
    """When a frame is shown, as its stream counts seconds; NaN where that is not said."""
    time = frame.pts if frame.pts is not None else frame.dts
    return math.nan if time is None else float(time * frame.time_base)


def _frames(container: Any, stream: Any, decoder: Any, damaged) -> Iterator[Any]:
    import av

    def report(error: Exception) -> None:
        if damaged is None:
            raise _Damaged from error
        damaged()

    packets, announced, shown = container.demux(stream), -math.inf, -math.inf
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError) as error:
            report(error)
            return
        if packet is None:
            break
        if packet.size and packet.pts is not None and not packet.is_discard:
            announced = max(announced, float(packet.pts * packet.time_base))
        try:
            frames = decoder.decode(packet)
        except av.FFmpegError as error:
            report(error)
            continue
        for frame in frames:
            shown = max(shown, _time(frame))
            if frame.is_corrupt:
                report(ValueError("a corrupt frame"))
            yield frame
    if damaged is None and shown < announced:
        raise _Damaged  # threads do not report an error in the last frames


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """Where a frame's axes point when it is shown: (x to x, x to y, y to x, y to y)."""
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return 1, 0, 0, 1
    xx, xy, _, yx, yy = (int(v) for v in np.frombuffer(bytes(data), np.int32)[:5])
    return xx, xy, yx, yy


def _swaps(matrix: tuple[int, int, int, int]) -> bool:
    xx, xy, yx, yy = matrix
    return abs(xy) + abs(yx) > abs(xx) + abs(yy)


def _turned(
    pixels: UInt8[np.ndarray, "H W 3"], matrix: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    xx, xy, yx, yy = matrix
    if _swaps(matrix):
        pixels, xx, yy = pixels.swapaxes(0, 1), yx, xy
    return np.ascontiguousarray(pixels[:: -1 if yy < 0 else 1, :: -1 if xx < 0 else 1])


def hear(path: pathlib.Path, begin: float, length: float) -> tuple[Sound | None, str | None]:
    """The sound of a video from a time on as its streams count, and a note on what was done to it.

    What is damaged is silent.
    """
    import av

    with opened(path) as container:
        stream = container.streams.audio[0]
        rate = stream.codec_context.sample_rate if stream.codec_context else 0
        if not 0 < rate <= 192_000:
            return None, f"{path} has sound that cannot be read: it was left out."
        given = stream.codec_context.channels
        note = f"{path} has sound of {given} channels: it was mixed to two." if given > 2 else None
        channels = min(max(given, 1), 2)
        samples = np.zeros((round(length * rate), channels), np.int16)
        resampler = av.AudioResampler("s16", "stereo" if channels == 2 else "mono", rate)
        position = None
        for frame in _decode(container, stream, begin, lambda: None):
            if frame.pts is not None:
                at = round((float(frame.pts * frame.time_base) - begin) * rate)
                # Coarse clocks tremble: only what is a real gap becomes one.
                if position is None or abs(at - position) > max(rate // 50, 1):
                    position = at
            for piece in resampler.resample(frame):
                piece = piece.to_ndarray().reshape(-1, channels)
                position = position or 0
                first, last = max(position, 0), min(position + len(piece), len(samples))
                if first < last:
                    samples[first:last] = piece[first - position : last - position]
                position += len(piece)
            if position is not None and position >= len(samples):
                break
    return (None, None) if position is None else (Sound(samples, rate), note)
