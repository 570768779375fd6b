"""How the oracle names motion: the camera's from the background, a thing's from its track."""

import dataclasses

import numpy as np
from scipy import ndimage

from vjax.data.sight import SMALLEST, UNKNOWN, Sight, components


@dataclasses.dataclass(frozen=True)
class Camera:
    name: str
    offset: np.ndarray  # [T], in shorter sides
    zoom: np.ndarray  # [T]


def read_camera(
    video: np.ndarray,
    out: np.ndarray,
    wall: np.ndarray,
    fps: float,
    ends: tuple[int, int],
    glow: float,
) -> Camera:
    """Least-squares shift and magnification of the background between frames some steps apart.

    Looks at the frames between `ends` only: those beside a cut may mix two shots. `glow` is how far
    light reaches from the things, in shorter sides.
    """
    frames, height, width, _ = video.shape
    still = Camera("static", np.zeros(frames), np.ones(frames))
    if ends[1] - ends[0] < 3:
        return still
    seconds = (ends[1] - ends[0] - 1) / fps
    stride = max(1, round(min(0.2, seconds / 2) * fps))
    keys = np.arange(*ends, stride)
    both = video[keys[[0, -1]]].astype(np.int16)
    change = np.abs(both[1] - both[0]).max(axis=-1)
    labels, areas = components(out[keys[[0, -1]]], 0.6 * SMALLEST * min(height, width) ** 2)
    margin = 7 + 2 * round(glow * min(height, width))
    busy = ndimage.maximum_filter((areas[labels] > 0).any(axis=0), size=margin)
    if change[~busy].max(initial=0) < 8:
        return still
    shrink = max(1, min(height, width) // 48)
    tall, wide = height // shrink * shrink, width // shrink * shrink
    pool = "k (y p) (x q) -> k y x"
    grey = video[keys, :tall, :wide].astype(np.float32).sum(axis=-1)
    grey = reduce(grey, pool, "mean", p=shrink, q=shrink)
    hide = out | wall[None, None, :]
    hide = reduce(hide[keys, :tall, :wide].astype(np.float32), pool, "max", p=shrink, q=shrink)
    labels, areas = components(hide > 0, 8)
    hide = areas[labels] > 0  # without the stars
    scale = min(height, width) / shrink
    margin = 7 + 2 * round(glow * scale)
    valid = ~ndimage.maximum_filter(hide, size=(1, margin, margin))
    filled = np.where(hide, 0, grey)
    blur = functools.partial(ndimage.gaussian_filter, sigma=(0, 1.6, 1.6))
    grey = blur(filled) / np.maximum(blur((~hide).astype(np.float32)), 0.05)
    x = (np.arange(grey.shape[2]) + 0.5 - grey.shape[2] / 2) / scale
    y = (np.arange(grey.shape[1]) + 0.5 - grey.shape[1] / 2) / scale
    pans, zooms = [0.0], [0.0]
    for first, second, ok in zip(grey[:-1], grey[1:], valid[:-1] & valid[1:], strict=True):
        pan = zoom = 0.0
        for _ in range(3):
            # Brightness at x is that at x - (pan + zoom * x) before: both gradients, first order.
            at = np.meshgrid(
                (y - zoom * y) * scale + (len(y) - 1) / 2,
                (x - pan - zoom * x) * scale + (len(x) - 1) / 2,
                indexing="ij",
            )
            warped = ndimage.map_coordinates(first, at, order=1, mode="nearest")
            inside = ok & (at[0] > 0) & (at[0] < len(y) - 1) & (at[1] > 0) & (at[1] < len(x) - 1)
            gy, gx = np.gradient((warped + second) / 2, 1 / scale)
            sideways, change = gx[inside], (second - warped)[inside]
            radial = (gx * x[None, :] + gy * y[:, None])[inside]
            noise = 100.0 * max(len(change), 1)  # so that a plain background seems at rest
            a, b, c = sideways @ sideways + noise, sideways @ radial, radial @ radial + noise
            det = a * c - b * b
            p, q = -(sideways @ change), -(radial @ change)
            pan, zoom = pan + (c * p - b * q) / det, zoom + (a * q - b * p) / det
            if abs(pan) < 0.003 and abs(zoom) < 0.004:
                break
        pans.append(pan)
        zooms.append(zoom)
    pan, zoom = np.cumsum(pans), np.cumsum(zooms)
    least = min((keys[-1] - keys[0]) / fps, 1.2)
    zooms_in = abs(zoom[-1]) * 0.5 > abs(pan[-1])
    if zooms_in:
        pan = np.zeros_like(pan)
    else:
        zoom = np.zeros_like(zoom)
    # Over a longer time, the move has to explain the picture better than rest does.
    apart = min(3, len(keys) - 1)
    gains = np.array([0.0, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35])
    errors = np.zeros(len(gains))
    for k in range(len(keys) - apart):
        ok = valid[k] & valid[k + apart]
        for index, gain in enumerate(gains):
            by = gain * (pan[k + apart] - pan[k])
            grown = np.exp(gain * (zoom[k + apart] - zoom[k]))
            at = np.meshgrid(
                y / grown * scale + (len(y) - 1) / 2,
                (x - by) / grown * scale + (len(x) - 1) / 2,
                indexing="ij",
            )
            inside = ok & (at[0] > 0) & (at[0] < len(y) - 1) & (at[1] > 0) & (at[1] < len(x) - 1)
            warped = ndimage.map_coordinates(grey[k], at, order=1, mode="nearest")
            errors[index] += ((grey[k + apart] - warped)[inside] ** 2).mean() if inside.any() else 0
    best = int(errors.argmin())
    if errors[best] > 0.65 * errors[0]:
        return still
    pan, zoom = gains[best] * pan, gains[best] * zoom
    offset = -np.interp(np.arange(frames), keys, pan)
    if zooms_in and abs(zoom[-1]) > 0.085 * least:
        zoom = np.exp(np.interp(np.arange(frames), keys, zoom))
        return Camera("zoom in" if zoom[-1] > 1 else "zoom out", np.zeros(frames), zoom)
    if not zooms_in and abs(pan[-1]) > 0.06 * least:
        return Camera("pan right" if offset[-1] > 0 else "pan left", offset, np.ones(frames))
    return still


def spin(sights: list[Sight], times: np.ndarray, order: int) -> tuple[float, float]:
    """Turn in radians between the first and last sight, and how uneven it is."""
    angles = []
    for sight in sights:
        height, width = sight.ink.shape
        x = (np.arange(width) + 0.5 + sight.left - sight.x)[None, :] / sight.gyration
        y = (np.arange(height) + 0.5 + sight.top - sight.y)[:, None] / sight.gyration
        angles.append(np.angle((sight.ink * (x + 1j * y) ** order).sum()))
    turn = np.unwrap(angles) / order
    line = np.polyfit(times, turn, 1)
    return float(line[0] * np.ptp(times)), float(np.std(turn - np.polyval(line, times)))


def _residual(basis: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of values [T] on each of the bases [N, T] and a constant: RMS and slopes."""
    centred = basis - basis.mean(axis=1, keepdims=True)
    power = (centred**2).sum(axis=1) + 1e-9
    slope = centred @ (values - values.mean()) / power
    left = (values - values.mean())[None, :] - slope[:, None] * centred
    return np.sqrt((left**2).mean(axis=1)), slope


def read_motion(
    times: np.ndarray, x: np.ndarray, y: np.ndarray, size: np.ndarray, turned: float
) -> str:
    """Names the curve that fits a track best; lengths in shorter sides, seconds from zero.

    `turned` is the angle in radians that the thing turned by.
    """
    if len(times) < 3:
        return UNKNOWN
    seconds = float(np.ptp(times))
    unit = min(seconds, 1.0)
    moved = max(np.ptp(x), np.ptp(y))
    # Growth: the world's slowest is 0.45 of the first size a second, shrinking 0.25.
    third = max(1, len(size) // 6)
    grown = float(np.log(np.median(size[-third:]) / np.median(size[:third])))
    grows, shrinks = grown > 0.2 * unit, grown < -0.13 * unit
    spins = abs(turned) > 2 * np.pi * 0.15 * unit
    changes = grows or shrinks or spins
    if moved < max(0.035, 0.09 * unit):
        if not changes:
            return "still"
        if spins and abs(grown) < 0.25:
            return "spins"
        if grows or shrinks:
            return UNKNOWN if spins else ("grows" if grows else "shrinks")
        return UNKNOWN
    rest = {"x": float(x.std()), "y": float(y.std())}
    # A slide: constant speed, then perhaps a stop.
    stops = times[-1] * np.linspace(0.2, 1, 17)
    ramps = np.minimum(times[None, :], stops[:, None])
    options = []
    for values, other, words in ((x, "y", ("left", "right")), (y, "x", ("up", "down"))):
        away, slope = _residual(ramps, values)
        best = int(away.argmin())
        if abs(slope[best] * stops[best]) > max(0.035, 0.08 * unit):
            options.append((float(np.hypot(away[best], rest[other])), words[int(slope[best] > 0)]))
    # A bounce: parabolas that meet at the ground (y grows downwards).
    periods, phases = np.meshgrid(np.linspace(0.7, 1.4, 15), np.arange(0, 1, 1 / 24))
    phase = (times[None, :] / periods.ravel()[:, None] + phases.ravel()[:, None]) % 1.0
    away, slope = _residual(-4 * phase * (1 - phase), y)
    away = np.where((slope > 0.1) & (slope < 1.2), away, np.inf)
    if np.isfinite(away.min()):
        options.append((float(np.hypot(away.min(), rest["x"])), "bounces"))
    # An orbit: a circle run at constant speed.
    z = (x - x.mean()) + 1j * (y - y.mean())
    for turn in (-1, 1):
        for period in np.linspace(1.3, 3.0, 18):
            wave = np.exp(2j * np.pi * turn * times / period)
            wave = wave - wave.mean()
            amount = np.vdot(wave, z) / np.vdot(wave, wave)
            if 0.08 < abs(amount) < 0.32:
                left = np.sqrt((np.abs(z - amount * wave) ** 2).mean())
                options.append((float(left), "circles"))
    if not options:
        return UNKNOWN
    away, name = min(options)
    if changes and (spins or abs(grown) > 0.35):
        return UNKNOWN
    return name if away < max(0.02, 0.12 * moved) else UNKNOWN
