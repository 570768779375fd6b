"""Where one shot of a clip ends and the next begins."""

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from scipy import ndimage


def _coarse(video: np.ndarray, cells: int = 24) -> np.ndarray:
    """About `cells` samples along each side."""
    step_y, step_x = (max(1, side // cells) for side in video.shape[1:3])
    return video[:, step_y // 2 :: step_y, step_x // 2 :: step_x].astype(np.float32)


def find_cuts(video: UInt8[np.ndarray, "T H W 3"]) -> tuple[int, ...]:
    """First frames of new shots: most of the picture changes at once, within four frames."""
    small = ndimage.uniform_filter(_coarse(video), size=(1, 3, 3, 1))
    frames = len(small)
    if frames < 4:
        return ()

    def change(lag: int) -> np.ndarray:
        moved = np.abs(small[lag:] - small[:-lag]) @ np.full(3, 1 / 3, np.float32)
        return np.median(rearrange(moved, "t h w -> t (h w)"), axis=1)

    step = change(1)
    lag = min(4, frames - 1)
    span = change(lag)
    usual = np.median(span)
    cuts = []
    while span.size and span.max() > max(6.0, 4 * usual):
        at = int(span.argmax())
        cut = at + 1 + int(step[at : at + lag].argmax())
        cuts.append(cut)
        span[max(0, at - lag - 1) : at + lag + 2] = 0
    return tuple(sorted(cuts))
