"""Files to uint8 arrays and back, with every frame shown at its right time.

Pictures and animations go through Pillow, everything else through the ffmpeg that comes with
imageio-ffmpeg. What is transparent is laid over black.
"""

import contextlib
import dataclasses
import io
import json
import math
import os
import pathlib
import re
import secrets
import struct
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Literal

import imageio_ffmpeg
import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

# The highest frame rate of each kind: browsers slow down gif and webp frames shorter than that.
MAX_FPS = {".mp4": 240, ".webm": 240, ".gif": 50, ".webp": 90, ".png": math.inf}
MAX_BYTES = 4 << 30  # of decoded frames: a long film should end in a message, not in swap
MAX_METADATA = 60_000  # bytes: what the EXIF block of a webp holds

_PICTURES = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")
_ANIMATED = ("PNG", "WEBP", "GIF", "AVIF")
_DESCRIPTION = 0x010E  # EXIF ImageDescription
_SLACK = 1e-9  # seconds: absorbs float rounding where two times coincide


class MediaError(ValueError):
    """A file that cannot be read or written; the message says why and what to do."""


@dataclasses.dataclass(frozen=True, eq=False)
class Clip:
    """Frames at an even rate; a picture is one frame and may have no rate."""

    frames: UInt8[np.ndarray, "T H W 3"]
    fps: float | None


# ----------------------------------------------------------------------------------------- reading


def read(
    path: str | os.PathLike,
    *,
    fps: float | None = None,
    size: tuple[int, int] | None = None,
    how: Literal["cover", "contain"] = "cover",
) -> Clip:
    """Reads any video, animation or picture.

    A variable frame rate becomes the lowest even rate that shows each frame at its own time; where
    none does, each is shown at the nearest time. Rotation, non-square pixels and EXIF orientation
    are applied.

    Args:
      path: the file; its content decides what it is, not its suffix.
      fps: resample to this rate. A picture only carries it along.
      size: (width, height) to `fit` each frame to while reading, so that memory follows the result.
      how: as in `fit`.

    Raises:
      MediaError: nothing can be decoded. A damaged tail is a warning: the frames before it return.
    """
    path = _existing(path)
    if fps is not None:
        _check_fps(fps)

    def keep(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        return frame if size is None else fit(frame[None], *size, how)[0]

    image = _open_picture(path)
    if image is None:
        frames, starts, end, tick = _decode_video(path, keep)
        if end == 0:
            return Clip(frames[0][None], fps)
    else:
        with image:
            if not getattr(image, "is_animated", False) or image.format not in _ANIMATED:
                return Clip(keep(_pixels(path, image))[None], fps)
            frames, starts, end, tick = _decode_animation(path, image, keep)
    rate, end = _even_rate(starts, end, tick)
    if fps is not None:
        rate = float(fps)
    index = _on_clock(starts, end, rate, slack=tick)
    if len(index) * frames[0].nbytes > MAX_BYTES:
        raise _too_long(path)
    return Clip(np.stack([frames[i] for i in index]), rate)


def read_metadata(path: str | os.PathLike) -> dict | None:
    """The settings that `write` stored in this file, None where there are none."""
    path = _existing(path)
    image = _open_picture(path)
    if image is None:
        text = _video_comment(path)
    else:
        with image:
            if image.format == "WEBP":
                text = image.getexif().get(_DESCRIPTION)
            else:
                text = image.info.get("Comment", image.info.get("comment"))
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    # Another program's comment may be any text at all: only ours has the key.
    with contextlib.suppress(ValueError, TypeError):
        stored = json.loads(text or "")
        if isinstance(stored, dict) and isinstance(stored.get("vjax"), dict):
            return stored["vjax"]
    return None


def _existing(path: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(path)
    try:
        if path.is_dir():
            raise MediaError(f"{path} is a directory; name a video or picture in it.")
        if not path.exists():
            raise MediaError(f"{path} does not exist; check the name.")
        if not path.is_file():
            raise MediaError(f"{path} is not an ordinary file; give a video or a picture.")
        if path.stat().st_size == 0:
            raise MediaError(f"{path} is empty (zero bytes); make or download it again.")
        with path.open("rb"):
            pass
    except OSError as error:
        raise MediaError(f"{path} cannot be opened: {error.strerror}.") from error
    return path


def _open_picture(path: pathlib.Path) -> Image.Image | None:
    try:
        return Image.open(_mended_webp(path) or path, formats=_PICTURES)
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path} has too many pixels; make it smaller first.") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"{path} is damaged and cannot be read ({error}).") from error


def _mended_webp(path: pathlib.Path) -> io.BytesIO | None:
    """The whole frames of an animated webp that was cut off: Pillow would refuse all of it."""
    with path.open("rb") as file:
        head = file.read(12)
        size = path.stat().st_size
        if head[:4] + head[8:] != b"RIFFWEBP" or struct.unpack("<I", head[4:8])[0] + 8 <= size:
            return None
        file.seek(0)
        data = file.read()
    count, milliseconds, position = 0, 0, 12
    while position + 8 <= size:
        length = struct.unpack("<I", data[position + 4 : position + 8])[0]
        following = position + 8 + length + length % 2
        if following > size:
            break
        if data[position : position + 4] == b"ANMF":
            count += 1
            milliseconds += int.from_bytes(data[position + 20 : position + 23], "little")
        position = following
    if not count:
        raise MediaError(f"{path} is damaged: no frame can be decoded.")
    _warn_broken(path, count, milliseconds / 1000, None)
    return io.BytesIO(b"RIFF" + struct.pack("<I", position - 8) + b"WEBP" + data[12:position])


def _pixels(path: pathlib.Path, image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """The current frame of a Pillow image as upright 8-bit RGB over black."""
    try:
        # Pillow reports broken data as any of these, by format.
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise MediaError(f"{path} is damaged and cannot be read ({error}).") from error
    frame = ImageOps.exif_transpose(image)
    if frame.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        grey = np.asarray(frame).astype(np.float64) / 257
        frame = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
    elif frame.mode == "F":
        raise MediaError(f"{path} is a floating-point picture; save it as png or jpg.")
    if frame.has_transparency_data:
        frame = frame.convert("RGBA")
        black = Image.new("RGBA", frame.size, (0, 0, 0, 255))
        frame = Image.alpha_composite(black, frame)
    return np.array(frame.convert("RGB"))


def _decode_animation(path: pathlib.Path, image: Image.Image, keep):
    frames: list[np.ndarray] = []
    durations: list[float] = []
    first = 1 if getattr(image, "default_image", False) else 0  # a png's stand-in for old viewers
    for i in range(first, getattr(image, "n_frames", 1)):
        try:
            image.seek(i)
            frame = _pixels(path, image)
        except (MediaError, OSError, ValueError, SyntaxError, EOFError) as error:
            if not frames:
                raise MediaError(f"{path} is damaged: no frame can be decoded.") from error
            _warn_broken(path, len(frames), math.fsum(durations), None)
            break
        frames.append(keep(frame))
        if len(frames) * frames[0].nbytes > MAX_BYTES:
            raise _too_long(path)
        milliseconds = float(image.info.get("duration", 0))
        # As every browser: a frame that claims no time at all is shown for a tenth of a second.
        durations.append(milliseconds / 1000 if milliseconds > 10 else 0.1)
    if not frames:
        raise MediaError(f"{path} has no frames; make or download it again.")
    edges = np.cumsum([0.0, *durations])
    return frames, edges[:-1], float(edges[-1]), 0.005 if image.format == "GIF" else 0.0005


def _decode_video(path: pathlib.Path, keep):
    probe = _probe(path)
    # Decoders other than ffmpeg's own are needed to see the alpha of vp8 and vp9.
    decoder = []
    if probe.alpha and probe.codec in ("vp8", "vp9"):
        decoder = ["-c:v", "libvpx-vp9" if probe.codec == "vp9" else "libvpx"]
    filters = ["showinfo=checksum=0"]
    if probe.alpha:
        filters += ["format=gbrap", "premultiply=inplace=1"]
    filters += ["scale=w='max(1,round(iw*sar))':h=ih:flags=bicubic+accurate_rnd+full_chroma_int"]
    command = [*_reader(), *decoder, "-i", _url(path), "-map", "0:V:0"]
    command += ["-vf", ",".join(filters), "-fps_mode", "passthrough"]
    command += ["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"]
    frames: list[np.ndarray] = []
    size = 0
    with tempfile.TemporaryFile() as log, _running(command, log, stdout=subprocess.PIPE) as process:
        for frame in _ppm_frames(process.stdout):
            frames.append(keep(frame))
            size += frames[-1].nbytes
            if size > MAX_BYTES:
                raise _too_long(path)
        returncode = process.wait()
        log.seek(0)
        lines = log.read().decode("utf-8", "replace").splitlines()
    starts, last, tick = _frame_times(lines)
    errors = [line for line in lines if "[error]" in line or "[fatal]" in line]
    frames = frames[: len(starts)]
    if not frames:
        raise MediaError(f"{path} is damaged: no frame can be decoded{_because(errors)}.")
    if np.isnan(starts[: len(frames)]).any():
        raise MediaError(
            f"{path} does not say when its frames are shown; "
            "convert it first, for example with ffmpeg to .mp4."
        )
    # Reordering leaves some damaged files with times that step back: nothing is shown before time.
    starts = np.maximum.accumulate(starts[: len(frames)] - starts[0])
    gap = float(np.median(np.diff(starts))) if len(frames) > 1 else 0.0
    if probe.still and len(frames) == 1:
        return frames, starts, 0.0, tick  # a picture of a kind that Pillow does not know
    # Most writers are careless with the duration of the last frame: near the usual one, it is that.
    if last <= 0 or abs(last - gap) < 0.5 * gap:
        last = gap or 1 / probe.fps
    end = float(starts[-1]) + last
    # Some containers end early without a complaint; sound may rightly be longer than the pictures.
    short = not probe.sound and end < 0.9 * probe.seconds - 0.1
    if errors or returncode or short:
        _warn_broken(path, len(frames), end, probe.seconds)
    return frames, starts, end, tick


@dataclasses.dataclass(frozen=True)
class _Probe:
    codec: str
    alpha: bool
    sound: bool
    still: bool
    fps: float
    seconds: float


def _probe(path: pathlib.Path) -> _Probe:
    """What ffmpeg says of the file before decoding, checked to be a video at all."""
    command = [*_reader(), "-i", _url(path)]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    report = result.stderr.decode("utf-8", "replace")
    container = re.search(r"Input #0, (\S+), from", report)
    errors = [line for line in report.splitlines() if "[error]" in line or "[fatal]" in line]
    errors = [line for line in errors if "At least one output file" not in line]
    if "Tile Grid" in report:  # heic: its streams are the tiles of one large picture
        raise MediaError(f"{path} is a tiled picture (heic); save it as jpg or png first.")
    # ffmpeg would draw a text file as if on a terminal.
    if container is None or container[1] == "tty":
        why = _because(errors) if container is None else ""
        raise MediaError(f"{path} is not a video or picture, or damaged beyond reading{why}.")
    # The first video stream that is not the cover of an album, and the tags below it.
    streams = re.split(r"(?m)^.*?(?=Stream #0)", report)[1:]
    streams = [s for s in streams if ": Video: " in s.split("\n")[0] and "attached pic" not in s]
    if not streams:
        raise MediaError(f"{path} has no pictures in it, only sound or data; give a video.")
    description = re.search(r": Video: (\w+)[^,]*, ([a-z]\w*)?", streams[0])
    codec, pixel_format = description.groups(default="") if description else ("", "")
    alpha = re.match(r"yuva|rgba|argb|bgra|abgr|gbrap|ya8|ya16|pal8", pixel_format) is not None
    alpha = alpha or re.search(r"(?mi)^\s*\S*\s*alpha_mode\s*: 1", streams[0]) is not None
    fps = re.search(r"([\d.]+)(k?) (?:fps|tbr)", streams[0])
    clock = re.search(r"Duration: (\d+):(\d+):([\d.]+)", report)
    return _Probe(
        codec=codec,
        alpha=alpha,
        sound=": Audio: " in report,
        still=container[1].strip(",").endswith(("_pipe", "image2")),
        fps=float(fps[1]) * (1000 if fps[2] else 1) if fps and float(fps[1]) > 0 else 25.0,
        seconds=3600 * int(clock[1]) + 60 * int(clock[2]) + float(clock[3]) if clock else 0.0,
    )


def _ppm_frames(stream) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
    while stream.readline().strip() == b"P6":
        width, height = map(int, stream.readline().split())
        stream.readline()  # the largest value: 255
        data = stream.read(width * height * 3)
        if len(data) < width * height * 3:
            return
        yield rearrange(
            np.frombuffer(data, np.uint8), "(h w c) -> h w c", h=height, w=width, c=3
        ).copy()


def _frame_times(lines: list[str]) -> tuple[Float[np.ndarray, "T"], float, float]:
    """Start of each frame, duration of the last, and the clock's tick, from showinfo's report."""
    base, starts, last = Fraction(1, 1000), [], 0.0
    for line in lines:
        if "Parsed_showinfo" not in line:
            continue
        if found := re.search(r"config in time_base: (\d+)/(\d+)", line):
            base = Fraction(int(found[1]), int(found[2]))
        elif found := re.search(r" pts:\s*(-?\d+|NOPTS) ", line):
            starts.append(math.nan if found[1] == "NOPTS" else float(int(found[1]) * base))
            duration = re.search(r" duration:\s*(\d+)", line)
            last = float(int(duration[1]) * base) if duration else 0.0
    return np.array(starts, np.float64), last, float(base)


def _warn_broken(path: pathlib.Path, count: int, seconds: float, expected: float | None) -> None:
    of = f" of {expected:.2f} s" if expected and expected > seconds else ""
    frames = "1 frame" if count == 1 else f"{count} frames"
    warnings.warn(
        f"{path} is damaged: only {frames} ({seconds:.2f} s{of}) could be decoded and are used.",
        stacklevel=4,
    )


def _too_long(path: pathlib.Path) -> MediaError:
    return MediaError(
        f"{path} is too long to hold in memory (over {MAX_BYTES >> 30} GB decoded); "
        "cut it or make it smaller first."
    )


# ------------------------------------------------------------------------------------------ timing


def _even_rate(starts: Float[np.ndarray, "T"], end: float, tick: float) -> tuple[float, float]:
    """The lowest rate at which every frame begins on a beat, or else one near it; and the end.

    Files round times to their clock's tick, so 16 fps in a gif reads 0.06, 0.12 (or 0.13), 0.19 …:
    among rates that fit within a tick, exact ones win, then familiar ones.
    """
    gaps = np.diff(np.append(starts, end))
    gaps = gaps[gaps > tick / 2]
    if not len(gaps):
        return 1.0, 1.0
    # A coarse clock was made for the frame rate and rounds nothing.
    slack = 1.01 * tick if tick <= 0.005 else _SLACK
    film = [rate * 1000 / 1001 for rate in (24, 30, 48, 60, 120)]
    familiar = [*map(float, range(1, 121)), *film]
    hundredths = [100 / k for k in range(2, 200)]
    own = [len(starts) / end, 1 / float(np.median(gaps)), 1 / float(gaps.min())]

    def fitting(edges: Float[np.ndarray, "N"]) -> float | None:
        found = []
        for order, rate in enumerate([*familiar, *hundredths, *own]):
            beats = np.rint(edges * rate)
            error = np.abs(beats / rate - edges).max()
            if error <= slack and (np.diff(beats, prepend=0) >= 1).all():
                found.append((beats[-1], error > 1e-7, order, rate))
        return min(found)[-1] if found else None

    if rate := fitting(np.append(starts[1:], end)):
        return rate, end
    # Some writers note a wrong duration for the last frame: it lasts a beat at least.
    if len(starts) > 2 and (rate := fitting(starts[1:])):
        return rate, max(end, float(starts[-1]) + 1 / rate)
    # A camera whose clock trembles, or drops a frame now and then, has a rate all the same.
    low, middle, high = np.percentile(gaps, [5, 50, 95])
    if high < 1.5 * middle and low > 0.5 * middle:
        rate = float(np.rint(gaps / middle).sum() / gaps.sum())
    else:
        rate = min(60.0, 1 / float(low))
    nearest = min(familiar, key=lambda f: abs(f - rate))
    return (nearest if abs(nearest - rate) < 0.01 * rate else rate), end


def _on_clock(
    starts: Float[np.ndarray, "T"], end: float, fps: float, slack: float = _SLACK
) -> Int[np.ndarray, "t"]:
    """Which frame to show at each beat k / fps.

    A frame is taken up to half a beat early (but no more than half of the frame before it): at even
    rates that is the nearest frame in time, and a frame that lasts long is held for as long.
    """
    early = np.minimum(1 / fps, np.diff(starts, prepend=starts[0])) / 2
    count = max(1, math.floor(end * fps + 0.5 + _SLACK))
    slack = min(slack, 0.25 / fps)
    index = np.searchsorted(starts - early - slack, np.arange(count) / fps, side="right") - 1
    return np.clip(index, 0, len(starts) - 1)


def resample(
    frames: Shaped[np.ndarray, "T *rest"], from_fps: float, to_fps: float
) -> Shaped[np.ndarray, "t *rest"]:
    """The frames nearest in time at another rate; the duration stays, to half a frame."""
    _check_fps(from_fps)
    _check_fps(to_fps)
    if from_fps == to_fps:
        return frames
    starts = np.arange(len(frames)) / from_fps
    return frames[_on_clock(starts, len(frames) / from_fps, to_fps)]


def _check_fps(fps: float) -> None:
    if not (math.isfinite(fps) and 0.01 <= fps <= 1000):
        raise MediaError(f"The frame rate must be between 0.01 and 1000, got {fps}.")


# ----------------------------------------------------------------------------------------- fitting


def fit(
    frames: UInt8[np.ndarray, "T H W 3"],
    width: int,
    height: int,
    how: Literal["cover", "contain"] = "cover",
) -> UInt8[np.ndarray, "T h w 3"]:
    """Scales frames to a size without distortion (Lanczos, antialiased).

    `cover` fills the size and cuts what stands over, the same on both sides; `contain` shows all
    and leaves black bars.
    """
    if how not in ("cover", "contain"):
        raise MediaError(f'how must be "cover" or "contain", got "{how}".')
    if width < 1 or height < 1:
        raise MediaError(f"The size must be at least 1x1, got {width}x{height}.")
    source_height, source_width = frames.shape[1:3]
    if (source_width, source_height) == (width, height):
        return frames
    ratios = width / source_width, height / source_height
    scale = max(ratios) if how == "cover" else min(ratios)
    # The part of the source that is seen, and the part of the result that it fills.
    seen_width, seen_height = min(source_width, width / scale), min(source_height, height / scale)
    left, top = (source_width - seen_width) / 2, (source_height - seen_height) / 2
    box = (left, top, left + seen_width, top + seen_height)
    inner_width = min(width, max(1, round(seen_width * scale)))
    inner_height = min(height, max(1, round(seen_height * scale)))
    x, y = (width - inner_width) // 2, (height - inner_height) // 2
    fitted = np.zeros((len(frames), height, width, 3), np.uint8)
    for frame, result in zip(frames, fitted, strict=True):
        small = Image.fromarray(frame).resize(
            (inner_width, inner_height), Image.Resampling.LANCZOS, box=box
        )
        result[y : y + inner_height, x : x + inner_width] = np.asarray(small)
    return fitted


def contact_sheet(
    clips: Sequence[UInt8[np.ndarray, "_T _H _W 3"]],  # each of its own length and size
    columns: int = 8,
    labels: Sequence[str] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """One picture to look at: a row of evenly spaced frames per clip, first and last included."""
    if not clips or columns < 1:
        raise MediaError("A contact sheet needs at least one clip and one column.")
    if labels is not None and len(labels) != len(clips):
        raise MediaError(f"{len(clips)} clips need as many labels, got {len(labels)}.")
    gap, font = 2, ImageFont.load_default(size=12)
    strips = []
    for clip in clips:
        index = np.rint(np.linspace(0, len(clip) - 1, min(columns, len(clip)))).astype(int)
        padded = np.pad(clip[index], ((0, 0), (0, gap), (0, gap), (0, 0)), constant_values=255)
        strips.append(rearrange(padded, "t h w c -> h (t w) c"))
    width = max(strip.shape[1] for strip in strips)
    line = 0 if labels is None else 16
    sheet = Image.new("RGB", (width, sum(strip.shape[0] + line for strip in strips)), "white")
    draw, y = ImageDraw.Draw(sheet), 0
    for i, strip in enumerate(strips):
        if labels is not None:
            draw.text((2, y), _shortened(labels[i], font, width - 4), fill="black", font=font)
        sheet.paste(Image.fromarray(strip), (0, y + line))
        y += strip.shape[0] + line
    return np.array(sheet)


def _shortened(text: str, font, width: float) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


# ----------------------------------------------------------------------------------------- writing


def check_writable(path: str | os.PathLike) -> None:
    """Raises MediaError unless `write` could write here: to be called before any heavy work."""
    path = pathlib.Path(path)
    if path.suffix.lower() not in MAX_FPS:
        kinds = ", ".join(MAX_FPS)
        raise MediaError(f"{path} must end in one of {kinds} to say what kind of file to write.")
    try:
        if path.is_dir():
            raise MediaError(f"{path} is a directory; name a file in it.")
        if not path.parent.is_dir():
            raise MediaError(f"The directory {path.parent} does not exist; make it first.")
        if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
            raise MediaError(f"{path} exists and may not be overwritten; choose another name.")
        # Permissions say too little (root, read-only and full disks): try it with a small file.
        with _replacing(path, commit=False) as trial:
            trial.write_bytes(bytes(1 << 16))
    except OSError as error:
        raise _unwritable(path, error) from error


def write(
    path: str | os.PathLike,
    frames: UInt8[np.ndarray, "T H W 3"],
    fps: float | None,
    *,
    metadata: dict | None = None,
) -> None:
    """Writes a video, an animation or a picture, by suffix; all of the file or none of it.

    mp4 is h264 of high quality in the pixel format that every player knows, which needs even sizes:
    an odd width or height gets its last column or row twice. webm is vp9 of high quality. gif has
    one palette of 255 colours, webp is lossless, and png is one frame.

    Args:
      path: the suffix says the kind. An older file is replaced when the new one is complete.
      frames: what to write.
      fps: frame rate; a png needs none.
      metadata: settings to store in the file, for `read_metadata`: anything that JSON can hold.

    Raises:
      MediaError: unknown suffix, unwritable or full disk, no frames, or a frame rate that the kind
        of file cannot have.
    """
    path = pathlib.Path(path)
    check_writable(path)
    suffix = path.suffix.lower()
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise MediaError(
            f"Frames to write must be uint8 [T, H, W, 3] and at least one, "
            f"got {frames.dtype} {list(frames.shape)}."
        )
    if suffix == ".png" and len(frames) != 1:
        raise MediaError(
            f"A png holds one frame and this clip has {len(frames)}; "
            "ask for one frame, or name the file .mp4, .gif or .webp."
        )
    rate = Fraction(1)
    if suffix != ".png":
        if fps is None:
            raise MediaError(f"A {suffix} needs a frame rate; give fps.")
        _check_fps(fps)
        if fps > MAX_FPS[suffix]:
            raise MediaError(
                f"A {suffix} plays at most {MAX_FPS[suffix]} frames a second, got {fps:g}; "
                "ask for fewer, or name the file .mp4."
            )
        rate = Fraction(fps).limit_denominator(10_000)
    # ASCII, because that is what the comment of a gif and EXIF can hold; \u carries the rest.
    comment = "" if metadata is None else json.dumps({"vjax": metadata}, allow_nan=False)
    if len(comment) > MAX_METADATA:
        raise MediaError(
            f"Settings to store in {path} are over {MAX_METADATA} bytes; shorten them."
        )
    try:
        with _replacing(path, commit=True) as temporary:
            _WRITERS[suffix](temporary, np.ascontiguousarray(frames), rate, comment)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: pathlib.Path, error: OSError) -> MediaError:
    why = error.strerror or str(error)
    return MediaError(f"{path} cannot be written: {why}; free some space or choose another place.")


@contextlib.contextmanager
def _replacing(path: pathlib.Path, commit: bool) -> Iterator[pathlib.Path]:
    """A new file beside `path` that takes its place when all went well, and vanishes otherwise."""
    path = pathlib.Path(os.path.realpath(path))  # a link stays a link
    temporary = path.with_name(f".{secrets.token_hex(6)}{path.suffix.lower()}")
    try:
        with temporary.open("xb"):
            pass
        yield temporary
        if commit:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # some disks only now notice that they are full
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_png(path: pathlib.Path, frames, fps: Fraction, comment: str) -> None:
    info = PngInfo()
    if comment:
        info.add_text("Comment", comment)
    Image.fromarray(frames[0]).save(path, format="PNG", pnginfo=info)


def _write_webp(path: pathlib.Path, frames, fps: Fraction, comment: str) -> None:
    """A lossless animation, put together here because libwebp drops frames that repeat.

    https://developers.google.com/speed/webp/docs/riff_container
    """
    height, width = frames.shape[1:3]
    if max(height, width) > 16383:
        raise MediaError(f"A webp is at most 16383 pixels a side, got {width}x{height}; use .png.")
    exif = b""
    if comment:
        tags = Image.Exif()
        tags[_DESCRIPTION] = comment
        exif = tags.tobytes()

    def size24(*values: int) -> bytes:
        return b"".join(value.to_bytes(3, "little") for value in values)

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    chunks = [
        chunk(
            b"VP8X", bytes([0x02 | (0x08 if exif else 0), 0, 0, 0]) + size24(width - 1, height - 1)
        ),
        chunk(b"ANIM", struct.pack("<IH", 0xFF000000, 0)),  # black behind, plays forever
    ]
    edges = [round(1000 * i / fps) for i in range(len(frames) + 1)]
    for i, frame in enumerate(frames):
        # Only the rectangle that changed, at even coordinates as the format asks.
        x0, y0, x1, y1 = (0, 0, width, height) if i == 0 else _changed(frames[i - 1], frame)
        still = io.BytesIO()
        crop = Image.fromarray(frame[y0:y1, x0:x1])
        # Far quicker than the default effort, and 5% larger.
        crop.save(still, format="WEBP", lossless=True, method=2, quality=20)
        place = size24(x0 // 2, y0 // 2, x1 - x0 - 1, y1 - y0 - 1, edges[i + 1] - edges[i])
        overwrite = b"\x02"  # do not blend with what is below
        chunks.append(chunk(b"ANMF", place + overwrite + still.getvalue()[12:]))
    if exif:
        chunks.append(chunk(b"EXIF", exif))
    path.write_bytes(chunk(b"RIFF", b"WEBP" + b"".join(chunks)))


def _changed(before: UInt8[np.ndarray, "H W 3"], after: UInt8[np.ndarray, "H W 3"]):
    different = (before != after).any(axis=2)
    ys, xs = np.flatnonzero(different.any(axis=1)), np.flatnonzero(different.any(axis=0))
    if not len(ys):
        return 0, 0, 1, 1
    return int(xs[0]) // 2 * 2, int(ys[0]) // 2 * 2, int(xs[-1]) + 1, int(ys[-1]) + 1


def _write_gif(path: pathlib.Path, frames, fps: Fraction, comment: str) -> None:
    if max(frames.shape[1:3]) > 65535:
        raise MediaError("A gif is at most 65535 pixels a side; make it smaller.")
    # ffmpeg rounds each start, not each duration, to hundredths, so the rhythm does not drift.
    hundredths = [round(100 * i / fps) for i in (len(frames) - 1, len(frames))]
    palette = "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=sierra2_4a:diff_mode=rectangle"
    options = ["-vf", palette, "-final_delay", str(hundredths[1] - hundredths[0]), "-f", "gif"]
    _encode(path, frames, fps, options)
    if comment:
        data = path.read_bytes()
        head = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)  # up to the palette's end
        text = comment.encode("ascii")
        blocks = [text[i : i + 255] for i in range(0, len(text), 255)]
        extension = b"\x21\xfe" + b"".join(bytes([len(b)]) + b for b in blocks) + b"\x00"
        path.write_bytes(data[:head] + extension + data[head:])


def _write_mp4(path: pathlib.Path, frames, fps: Fraction, comment: str) -> None:
    odd_height, odd_width = (side % 2 for side in frames.shape[1:3])
    if odd_height or odd_width:
        frames = np.pad(frames, ((0, 0), (0, odd_height), (0, odd_width), (0, 0)), mode="edge")
    options = [*_YUV, "-c:v", "libx264", "-preset", "medium", "-crf", "12"]
    options += ["-metadata", f"comment={comment}", "-movflags", "+faststart", "-f", "mp4"]
    _encode(path, frames, fps, options)


def _write_webm(path: pathlib.Path, frames, fps: Fraction, comment: str) -> None:
    options = [*_YUV, "-c:v", "libvpx-vp9", "-crf", "15", "-b:v", "0", "-row-mt", "1"]
    options += ["-cpu-used", "2", "-metadata", f"comment={comment}", "-f", "webm"]
    _encode(path, frames, fps, options)


_WRITERS = {
    ".mp4": _write_mp4,
    ".webm": _write_webm,
    ".gif": _write_gif,
    ".webp": _write_webp,
    ".png": _write_png,
}

# ------------------------------------------------------------------------------------------ ffmpeg

# Colours are converted by BT.709 and marked so: unmarked, players guess by size.
_YUV = [
    "-vf",
    "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
    ":out_color_matrix=bt709:out_range=tv,format=yuv420p",
    *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"),
    *("-color_range", "tv"),
]


def _reader() -> list[str]:
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    # Only files: a playlist must not make us open connections.
    quiet = ["-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info"]
    return [exe, *quiet, "-protocol_whitelist", "file,pipe"]


def _url(path: pathlib.Path) -> str:
    return f"file:{path.absolute()}"  # so that no name is taken for an option or a protocol


def _because(errors: list[str]) -> str:
    if not errors:
        return ""
    # The first complaint is the cause, the rest follows from it.
    reason = re.sub(r"\[[^\]]*\]\s*", "", errors[0]).strip().rstrip(".")
    return f" (ffmpeg: {reason})"


@contextlib.contextmanager
def _running(command: list[str], log, **pipes) -> Iterator[subprocess.Popen]:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, **pipes}
    with subprocess.Popen(command, stderr=log, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()  # no effect where it has ended


def _encode(path: pathlib.Path, frames, fps: Fraction, options: list[str]) -> None:
    height, width = frames.shape[1:3]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-hide_banner",
        "-nostats",
        "-loglevel",
        "level+error",
    ]
    command += ["-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
    command += ["-framerate", f"{fps.numerator}/{fps.denominator}", "-i", "pipe:0"]
    command += [*options, _url(path)]
    with tempfile.TemporaryFile() as log, _running(command, log, stdin=subprocess.PIPE) as process:
        # A pipe that breaks means that ffmpeg has given up; why is in its log.
        with contextlib.suppress(BrokenPipeError):
            for frame in frames:
                process.stdin.write(frame.data)
            process.stdin.close()
        returncode = process.wait()
        log.seek(0)
        errors = log.read().decode("utf-8", "replace").splitlines()
    if returncode or errors:
        full = [line for line in errors if "No space left" in line]
        reason = full or [line for line in errors if "[error]" in line or "[fatal]" in line]
        raise OSError(f"ffmpeg stopped with status {returncode}{_because(reason[:1])}")


def _video_comment(path: pathlib.Path) -> str | None:
    _probe(path)
    command = [*_reader(), "-i", _url(path), "-f", "ffmetadata", "pipe:1"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    general = re.split(r"(?m)^\[", result.stdout.decode("utf-8", "replace"))[0]
    found = re.search(r"(?mi)^comment=(.*)$", general)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else None
