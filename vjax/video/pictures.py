"""Pictures and animations, through Pillow."""

import contextlib
import functools
import io
import math
import pathlib
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vjax.video.clip import MediaError, transparent
from vjax.video.fitting import coarse, fit

_KINDS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")
_ANIMATED = ("PNG", "WEBP", "GIF", "AVIF")
_ORIENTATION = 0x0112  # EXIF
# Pillow reports broken data as any of these, by kind of file.
_BROKEN = (
    *(OSError, ValueError, SyntaxError, EOFError, struct.error, KeyError, IndexError),
    *(RuntimeError, TypeError, ArithmeticError),
)

Size = tuple[int, int]  # width, height
# Start and duration in seconds, size, and what gives the pixels in another size.
Shown = tuple[float, float, Size, Callable[[Size], UInt8[np.ndarray, "H W 3"]]]


class Picture:
    """An open picture or animation, decoded as its frames are asked for."""

    declared = None  # frame rate
    expected = origin = 0.0  # seconds
    silent = True
    careful = True  # with the duration of the last frame

    def __init__(self, path: pathlib.Path, image: Any, broken: bool, layer: str):
        self.path, self.image, self.broken, self.layer = path, image, broken, layer
        self.still = not (image.format in _ANIMATED and getattr(image, "is_animated", False))
        self.count = 1 if self.still else getattr(image, "n_frames", 1)
        self.tick = 0.005 if image.format == "GIF" else 0.0005
        self.notes: dict[str, None] = {}  # in order, each once

    def __enter__(self) -> "Picture":
        return self

    def __exit__(self, *_) -> None:
        self.image.close()

    def frames(self, begin: float = 0.0) -> Iterator[Shown]:
        """Those that start at `begin` seconds or later. Pixels are to be taken before the next."""
        if self.still:
            width, height = self.image.size
            size = (height, width) if _orientation(self.image) >= 5 else (width, height)
            yield 0.0, 0.0, size, lambda target: self._still(size, target)
            return
        start = 0.0
        first = 1 if getattr(self.image, "default_image", False) else 0  # for old viewers
        for i in range(first, self.count):
            try:
                with _within_limits(self.path):
                    self.image.seek(i)
                    frame = self._pixels()
            except MediaError:
                raise
            except _BROKEN as error:
                if i == first:
                    raise MediaError(f"{self.path} is damaged: no frame can be decoded.") from error
                self.broken = True
                return
            milliseconds = float(self.image.info.get("duration", 0))
            # As every browser: a frame that claims no time at all is shown for a tenth of a second.
            duration = milliseconds / 1000 if milliseconds > 10 else 0.1
            if start >= begin - self.tick:
                shape = frame.shape[1], frame.shape[0]
                yield start, duration, shape, functools.partial(_fitted, frame)
            start = math.fsum((start, duration))

    def _still(self, size: Size, target: Size) -> UInt8[np.ndarray, "h w 3"]:
        if self.image.format == "JPEG":  # a large one is scaled while it is decoded
            width, height = coarse(size, target)
            self.image.draft(None, (width, height) if size == self.image.size else (height, width))
        try:
            with _within_limits(self.path):
                pixels = self._pixels()
        except MediaError:
            raise
        except _BROKEN as error:
            raise MediaError(f"{self.path} is damaged and cannot be read ({error}).") from error
        return _fitted(pixels, target)

    def _pixels(self) -> UInt8[np.ndarray, "H W 3"]:
        """The current frame as upright 8-bit sRGB: over black, or the layer of it asked for."""
        from PIL import Image

        self.image.load()
        frame = self.image
        if frame.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip
            grey = np.asarray(frame).astype(np.float64) / 257
            frame = Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8))
        elif frame.mode == "F":
            raise MediaError(f"{self.path} is a floating-point picture; save it as png or jpg.")
        alpha = frame.convert("RGBA").getchannel("A") if frame.has_transparency_data else None
        if self.layer == "opacity":
            opaque = Image.new("L", frame.size, 255)
            frame = Image.merge("RGB", [alpha or opaque] * 3)
        else:
            frame = self._managed(frame)
            if alpha is not None and self.layer == "shown":
                if np.asarray(alpha).min() < 255:
                    self.notes.setdefault(transparent(self.path))
                frame = Image.composite(frame, Image.new("RGB", frame.size), alpha)
        turn = _turn(_orientation(self.image))
        if turn is not None:
            frame = frame.transpose(turn)
        return np.array(frame)

    def _managed(self, frame: Any) -> Any:
        """The frame in RGB, by way of its colour profile where that is not sRGB."""
        from PIL import Image, ImageCms

        profile = self.image.info.get("icc_profile")
        if not profile:
            return frame.convert("RGB")
        if frame.mode not in ("RGB", "CMYK", "L"):
            frame = frame.convert("L" if frame.mode in ("LA", "1") else "RGB")
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            convert = ImageCms.buildTransform(
                source, ImageCms.createProfile("sRGB"), frame.mode, "RGB"
            )
            if frame.mode == "RGB":
                levels = np.mgrid[0:256:51, 0:256:51, 0:256:51].reshape(3, -1, 1).T
                colours = Image.fromarray(levels.astype(np.uint8))
                moved = np.asarray(ImageCms.applyTransform(colours, convert)) - levels
                if np.abs(moved).max() <= 2:  # sRGB under one of its many names
                    return frame
            name = " ".join(ImageCms.getProfileDescription(source).split())[:80]
            managed = ImageCms.applyTransform(frame, convert)
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            return frame.convert("RGB")  # a broken profile, or one for another kind of colour
        note = f"{self.path}: its colours were converted from {name or 'a profile'} to sRGB."
        self.notes.setdefault(note)
        return managed


def _fitted(pixels: UInt8[np.ndarray, "H W 3"], target: Size) -> UInt8[np.ndarray, "h w 3"]:
    return fit(pixels[None], *target)[0]


def open_picture(path: pathlib.Path, layer: str = "shown") -> Picture | None:
    """The picture or animation in a file; None if it is of a kind that Pillow does not read.

    Args:
        layer: "shown", its colours over black; "colour", without heed of transparency; "opacity",
            as gray, white where nothing shines through.
    """
    from PIL import Image, UnidentifiedImageError

    mended = _mended_webp(path)
    try:
        with _within_limits(path):
            image = Image.open(mended or path, formats=_KINDS)
            return Picture(path, image, mended is not None, layer)
    except UnidentifiedImageError:
        return None
    except MediaError:
        raise
    except _BROKEN as error:
        raise MediaError(f"{path} is damaged and cannot be read ({error}).") from error


def in_memory(image: Any) -> UInt8[np.ndarray, "H W _C"]:
    """The pixels of an image of Pillow's as of a file; a fourth channel says how opaque.

    Raises:
        MediaError: they cannot be decoded.
    """
    path = pathlib.Path(getattr(image, "filename", "") or "The picture")
    try:
        layers = ["colour", "opacity"] if image.has_transparency_data else ["colour"]
        found = [Picture(path, image, False, layer)._pixels() for layer in layers]
    except MediaError:
        raise
    except _BROKEN as error:
        raise MediaError(f"{path} is damaged and cannot be read ({error}).") from error
    return np.concatenate([found[0], *(layer[..., :1] for layer in found[1:])], axis=-1)


def _mended_webp(path: pathlib.Path) -> io.BytesIO | None:
    """The whole frames of an animated webp that was cut off: Pillow would refuse all of it."""
    with path.open("rb") as file:
        head = file.read(12)
        size = path.stat().st_size
        if head[:4] + head[8:] != b"RIFFWEBP" or struct.unpack("<I", head[4:8])[0] + 8 <= size:
            return None
        file.seek(0)
        data = file.read()
    whole, position = False, 12
    while position + 8 <= size:
        length = struct.unpack("<I", data[position + 4 : position + 8])[0]
        following = position + 8 + length + length % 2
        if following > size:
            break
        whole |= data[position : position + 4] == b"ANMF"
        position = following
    if not whole:
        raise MediaError(f"{path} is damaged: no frame can be decoded.")
    return io.BytesIO(b"RIFF" + struct.pack("<I", position - 8) + b"WEBP" + data[12:position])


@contextlib.contextmanager
def _within_limits(path: pathlib.Path) -> Iterator[None]:
    """Pillow checks sizes before it takes memory: far too many pixels are an error."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is said by an error or a note
            yield
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path} has too many pixels; make it smaller first.") from error


def exif(image: Any) -> Any:
    """The EXIF tags; a broken block has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(image.getexif())
    except Exception:  # whatever a hostile block makes of the parser
        return {}


def _orientation(image: Any) -> int:
    value = exif(image).get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turn(orientation: int) -> Any | None:
    """What Pillow does to show a picture of this orientation upright."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
