"""Frames to gif and webp."""

import contextlib
import io
import struct
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vjax.video.encoders import Encode, Job, as_os_error, url
from vjax.video.metadata import DESCRIPTION


@contextlib.contextmanager
def webp(job: Job) -> Iterator[Encode]:
    """An animation, put together here because libwebp drops frames that repeat.

    https://developers.google.com/speed/webp/docs/riff_container
    """
    from PIL import Image

    width, height = job.size
    exif = b""
    if job.comment:
        tags = Image.Exif()
        tags[DESCRIPTION] = job.comment
        exif = tags.tobytes()
    if job.quality is None:
        # Far quicker than the default effort, and 5% larger.
        options = {"lossless": True, "method": 2, "quality": 20}
    else:
        options = {"quality": job.quality}
    with job.path.open("wb") as file:
        flags = 0x02 | (0x08 if exif else 0)  # animation, EXIF
        file.write(b"RIFF\0\0\0\0WEBP")
        file.write(_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + _size24(width - 1, height - 1)))
        file.write(_chunk(b"ANIM", struct.pack("<IH", 0xFF000000, 0)))  # black, plays forever
        count, before = 0, None

        def encode(pixels: UInt8[np.ndarray, "H W 3"]) -> None:
            nonlocal count, before
            # Only the rectangle that changed, at even coordinates as the format asks.
            changed = (0, 0, width, height) if before is None else _changed(before, pixels)
            x0, y0, x1, y1 = changed
            still = io.BytesIO()
            Image.fromarray(pixels[y0:y1, x0:x1]).save(still, format="WEBP", **options)
            start, end = (round(1000 * i / job.fps) for i in (count, count + 1))
            place = _size24(x0 // 2, y0 // 2, x1 - x0 - 1, y1 - y0 - 1, end - start)
            overwrite = b"\x02"  # do not blend with what is below
            file.write(_chunk(b"ANMF", place + overwrite + still.getvalue()[12:]))
            count, before = count + 1, pixels.copy()

        yield encode
        if exif:
            file.write(_chunk(b"EXIF", exif))
        length = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", length - 8))


def _size24(*values: int) -> bytes:
    return b"".join(value.to_bytes(3, "little") for value in values)


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _changed(before: UInt8[np.ndarray, "H W 3"], after: UInt8[np.ndarray, "H W 3"]):
    different = (before != after).any(axis=2)
    ys, xs = np.flatnonzero(different.any(axis=1)), np.flatnonzero(different.any(axis=0))
    if not len(ys):
        return 0, 0, 1, 1
    return int(xs[0]) // 2 * 2, int(ys[0]) // 2 * 2, int(xs[-1]) + 1, int(ys[-1]) + 1


@contextlib.contextmanager
def gif(job: Job) -> Iterator[Encode]:
    """One palette for all frames, so they wait on disk until the last one is there."""
    import av

    width, height = job.size
    with tempfile.TemporaryFile(dir=job.path.parent) as waiting:
        palettes = av.filter.Graph()
        source = palettes.add_buffer(None, width, height, "rgb24", time_base=Fraction(1, 100))
        palettes.link_nodes(source, palettes.add("palettegen"), palettes.add("buffersink"))
        palettes.configure()
        count = 0

        def encode(pixels: UInt8[np.ndarray, "H W 3"]) -> None:
            nonlocal count
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = count, Fraction(1, 100)
            palettes.vpush(frame)
            with contextlib.suppress(av.BlockingIOError):  # counts its colours and lets it go
                palettes.vpull()
            waiting.write(pixels.data)
            count += 1

        yield encode
        palettes.vpush(None)
        waiting.seek(0)
        frames = (
            np.frombuffer(waiting.read(width * height * 3), np.uint8).reshape(height, width, 3)
            for _ in range(count)
        )
        with as_os_error():
            _encode_gif(job, frames, count, palettes.vpull())
    if job.comment:
        data = job.path.read_bytes()
        head = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)  # up to the palette's end
        text = job.comment.encode("ascii")
        blocks = [text[i : i + 255] for i in range(0, len(text), 255)]
        extension = b"\x21\xfe" + b"".join(bytes([len(b)]) + b for b in blocks) + b"\x00"
        job.path.write_bytes(data[:head] + extension + data[head:])


def _encode_gif(job: Job, frames: Iterator[np.ndarray], count: int, palette: Any) -> None:
    import av

    width, height = job.size
    graph = av.filter.Graph()
    pixels = graph.add_buffer(None, width, height, "rgb24", time_base=1 / job.fps)
    colours = graph.add_buffer(None, 16, 16, palette.format, time_base=Fraction(1, 100))
    paint = graph.add("paletteuse", "dither=sierra2_4a:diff_mode=rectangle")
    sink = graph.add("buffersink")
    pixels.link_to(paint, 0, 0)
    colours.link_to(paint, 0, 1)
    paint.link_to(sink)
    graph.configure()
    colours.push(palette)
    colours.push(None)
    # Each start, not each duration, is rounded to hundredths, so the rhythm does not drift.
    last, end = (round(100 * i / job.fps) for i in (count - 1, count))
    with av.open(
        url(job.path), "w", "gif", container_options={"final_delay": str(end - last)}
    ) as out:
        stream = out.add_stream("gif", rate=job.fps)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "pal8"
        context.time_base = 1 / job.fps

        def drain() -> None:
            with contextlib.suppress(av.BlockingIOError, av.EOFError):
                while True:
                    out.mux(stream.encode(sink.pull()))

        for i, each in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(each, format="rgb24")
            frame.pts, frame.time_base = i, 1 / job.fps
            pixels.push(frame)
            drain()
        pixels.push(None)
        drain()
        out.mux(stream.encode())
