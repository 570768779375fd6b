"""Frames to mp4, webm and mkv through PyAV, and to png through Pillow."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vjax.video.sound import Sound

Encode = Callable[[UInt8[np.ndarray, "H W 3"]], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """What to write where, all of it checked."""

    path: pathlib.Path
    fps: Fraction
    size: tuple[int, int]  # width, height
    comment: str
    quality: int | None  # 1 to 100
    sound: Sound | None

    def scaled(self, worst: float, best: float, default: float) -> str:
        """The quality on an encoder's own scale."""
        if self.quality is None:
            return f"{default:g}"
        return f"{round(worst + (best - worst) * self.quality / 100)}"


# Converted by BT.709, rounded right, and with the colour between pixels where players look for it.
_TO_YUV = (
    "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
    ":out_color_matrix=bt709:out_range=tv"
)


def mp4(job: Job) -> contextlib.AbstractContextManager[Encode]:
    # Without the macroblock tree: with it, the same frames now and then gave other bytes.
    options = {"preset": "medium", "crf": job.scaled(38, 10, default=12), "mbtree": "0"}
    filters = f"{_TO_YUV}:out_chroma_loc=left,format=yuv420p"
    return _video(job, "mp4", "libx264", options, filters, "aac", {"movflags": "+faststart"})


def webm(job: Job) -> contextlib.AbstractContextManager[Encode]:
    options = {"crf": job.scaled(50, 12, default=15), "b": "0", "row-mt": "1", "cpu-used": "2"}
    return _video(job, "webm", "libvpx-vp9", options, f"{_TO_YUV},format=yuv420p", "libopus", {})


def mkv(job: Job) -> contextlib.AbstractContextManager[Encode]:
    options = {"level": "3", "slicecrc": "1"}
    return _video(job, "matroska", "ffv1", options, "scale,format=bgr0", "flac", {})


@contextlib.contextmanager
def _video(
    job: Job,
    container: str,
    codec: str,
    options: dict,
    filters: str,
    sound_codec: str,
    settings: dict,
) -> Iterator[Encode]:
    import av
    from av.codec.context import ThreadType

    odd_width, odd_height = (side % 2 if container == "mp4" else 0 for side in job.size)
    width, height = job.size[0] + odd_width, job.size[1] + odd_height
    graph = av.filter.Graph()
    source = graph.add_buffer(None, width, height, "rgb24", time_base=1 / job.fps)
    steps = [graph.add(*step.split("=", 1)) for step in filters.split(",")]
    graph.link_nodes(source, *steps, graph.add("buffersink"))
    graph.configure()
    # Matroska would give every file a random name of its own.
    settings = {"fflags": "+bitexact", **settings}
    with as_os_error():
        out = av.open(url(job.path), "w", container, container_options=settings)
    try:
        if job.comment:
            out.metadata["comment"] = job.comment
        stream = out.add_stream(codec, rate=job.fps, options=options)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, filters.split("=")[-1]
        context.time_base = 1 / job.fps
        context.thread_type = ThreadType.AUTO
        if context.pix_fmt == "yuv420p":  # marked as what it is: unmarked, players guess by size
            context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
            context.color_range = 1  # "tv"
        track = _Track(out, job.sound, sound_codec) if job.sound else None
        count = 0

        def encode(pixels: UInt8[np.ndarray, "H W 3"]) -> None:
            nonlocal count
            if odd_width or odd_height:
                pixels = np.pad(pixels, ((0, odd_height), (0, odd_width), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = count, 1 / job.fps
            count += 1
            graph.vpush(frame)
            with as_os_error():
                out.mux(stream.encode(graph.vpull()))
                if track:
                    track.write(float(count / job.fps))

        yield encode
        with as_os_error():
            out.mux(stream.encode())
            if track:
                track.finish()
            out.close()
    except BaseException:
        with contextlib.suppress(Exception):  # what failed is told, not what follows from it
            out.close()
        raise


class _Track:
    """The sound of a file, written along with its frames."""

    def __init__(self, out: Any, sound: Sound, codec: str):
        import av

        self.out, self.sound, self.position = out, sound, 0
        rates = av.Codec(codec, "w").audio_rates
        rate = sound.rate if not rates or sound.rate in rates else 48_000
        self.layout = "stereo" if sound.samples.shape[1] == 2 else "mono"
        self.stream = out.add_stream(codec, rate=rate, layout=self.layout)
        if codec != "flac":
            self.stream.codec_context.bit_rate = 96_000 * sound.samples.shape[1]
        kinds = [f.name for f in self.stream.codec_context.codec.audio_formats]
        form = next(kind for kind in ("s16", "fltp", "flt") if kind in kinds)
        self.resampler = av.AudioResampler(form, self.layout, rate)

    def write(self, until: float) -> None:
        """All that is heard before this time, in seconds."""
        import av

        last = min(round(until * self.sound.rate), len(self.sound.samples))
        if last <= self.position:
            return
        piece = np.ascontiguousarray(self.sound.samples[self.position : last])
        frame = av.AudioFrame.from_ndarray(piece.reshape(1, -1), "s16", self.layout)
        frame.rate, frame.pts = self.sound.rate, self.position
        frame.time_base = Fraction(1, self.sound.rate)
        self.position = last
        self._encode(self.resampler.resample(frame))

    def finish(self) -> None:
        self._encode(self.resampler.resample(None))
        self.out.mux(self.stream.encode())

    def _encode(self, frames: list) -> None:
        for frame in frames:
            self.out.mux(self.stream.encode(frame))


@contextlib.contextmanager
def png(job: Job) -> Iterator[Encode]:
    yield lambda pixels: _save_png(job.path, pixels, job.comment)


@contextlib.contextmanager
def folder(job: Job) -> Iterator[Encode]:
    count = 0

    def encode(pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        nonlocal count
        _save_png(job.path / f"{count:06d}.png", pixels, "" if count else job.comment)
        count += 1

    yield encode


def _save_png(path: pathlib.Path, pixels: UInt8[np.ndarray, "H W 3"], comment: str) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if comment:
        info.add_text("Comment", comment)
    Image.fromarray(pixels).save(path, format="PNG", pnginfo=info)


def url(path: pathlib.Path) -> str:
    return f"file:{path.absolute()}"  # so that no name is taken for a protocol


@contextlib.contextmanager
def as_os_error() -> Iterator[None]:
    import av

    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror or str(error)) from error
