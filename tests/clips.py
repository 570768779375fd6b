"""Clips to test files with, and videos as other programs would write them."""

from fractions import Fraction

import av
import numpy as np


def ramp(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames that tell their own number: red is 7 times it. Few enough colours for a gif."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = 7 * np.arange(count)[:, None, None]
    frames[..., 1] = (40 + np.arange(height) // 12 * 40)[None, :, None]
    frames[..., 2] = 90
    return frames


def numbers(frames: np.ndarray) -> list[int]:
    return np.rint(frames[..., 0].mean(axis=(1, 2)) / 7).astype(int).tolist()


def encode(
    path,
    frames,
    codec="libx264",
    pixels="yuv420p",
    *,
    rate=10,
    times=None,
    clock=1000,
    setup=None,
    **options,
):
    """A video as another program would write it; `times` of its frames by a clock."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        tick = Fraction(1, rate if times is None else clock)
        stream.codec_context.time_base = tick
        if setup:
            setup(out, stream)
        for i, frame in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(frame, "rgba" if frame.shape[-1] == 4 else "rgb24")
            frame.pts = i if times is None else round(times[i])
            frame.time_base = tick
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
