"""Many clips in one picture."""

from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import UInt8

from vjax.video.clip import MediaError


def contact_sheet(
    clips: Sequence[UInt8[np.ndarray, "_T _H _W 3"]],  # each of its own length and size
    columns: int = 8,
    labels: Sequence[str] | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """One picture to look at: a row of evenly spaced frames per clip, first and last included."""
    from PIL import Image, ImageDraw, ImageFont

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
