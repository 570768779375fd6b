"""What a video's numbers mean, as 8-bit sRGB.

A wide gamut becomes BT.709's. High dynamic range (PQ, HLG) is mapped to the range of a screen by
the tone curve of BT.2390, with 203 nits, the white of paper in BT.2408, as its white.
"""

import functools

import numpy as np
from jaxtyping import Float, UInt8, UInt16

WHITE = 203.0  # nits
PEAK = 1000.0  # nits: what HLG is graded for and nearly all of PQ is

# Codes of ITU-T H.273.
_TRANSFERS = {16: "PQ", 18: "HLG"}
_PRIMARIES = {9: "BT.2020", 12: "Display P3"}
_GAMMA = 2.4  # of a screen, BT.1886

# Linear RGB to linear BT.709, from the chromaticities.
_TO_709 = {
    9: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    12: ((1.2249, -0.2247, 0.0), (-0.0420, 1.0419, 0.0), (-0.0197, -0.0786, 1.0979)),
}


def meaning(transfer: int, primaries: int) -> str | None:
    """What the colours are, where they have to be mapped to be shown as sRGB."""
    names = [_TRANSFERS.get(transfer), _PRIMARIES.get(primaries)]
    return " ".join(name for name in names if name) or None


def to_srgb(
    pixels: UInt16[np.ndarray, "H W 3"], transfer: int, primaries: int
) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of one of the transfers and primaries above, mapped to what sRGB can show."""
    light = _linear(transfer)[pixels]  # 1 = the white of paper
    if transfer == 18:  # BT.2100: a screen shows the scene's light with a gamma of 1.2
        luminance = light @ np.array((0.2627, 0.6780, 0.0593), np.float32)
        light = light * np.maximum(luminance, 1e-6)[..., None] ** np.float32(0.2)
        light *= np.float32(PEAK / WHITE)
    matrix = _TO_709.get(primaries)
    if matrix is not None:
        light = light @ np.array(matrix, np.float32).T
    if transfer in _TRANSFERS:
        # One factor for all three keeps the hue.
        brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
        light = light * (_tone(brightest) / brightest)
    shown = np.clip(light, 0, 1) ** np.float32(1 / _GAMMA)
    return np.rint(shown * 255).astype(np.uint8)


@functools.cache
def _linear(transfer: int) -> Float[np.ndarray, "65536"]:
    """Light for each 16-bit number: PQ's by the white of paper, HLG's by the scene's peak."""
    signal = np.arange(65536) / 65535
    if transfer == 16:
        light = _pq_light(signal) / WHITE
    elif transfer == 18:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = signal**_GAMMA
    return light.astype(np.float32)


def _tone(light: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """The curve of BT.2390 (EETF) from `PEAK` down to white; what is dark stays as it is."""
    peak, white = _pq_signal(np.float32(PEAK)), _pq_signal(np.float32(WHITE))
    signal = np.minimum(_pq_signal(light * np.float32(WHITE)) / peak, 1)
    top = white / peak
    knee = 1.5 * top - 0.5
    t = np.maximum(signal - knee, 0) / (1 - knee)
    bent = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * top
    )
    return _pq_light(np.where(signal < knee, signal, bent) * peak) / np.float32(WHITE)


_M1, _M2, _C1, _C2, _C3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875  # BT.2100


def _pq_light(signal):
    root = signal ** (1 / _M2)
    return 10000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)


def _pq_signal(nits):
    power = (nits / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2
