"""The shapes of things, as signed distances: for the renderer and for the oracle."""

import numpy as np


def _polygon(x: np.ndarray, y: np.ndarray, points: int, outer: float, inner: float) -> np.ndarray:
    """Signed distance to the edges of a star polygon that points up, folded into one edge."""
    sector = 2 * np.pi / points
    theta = np.arctan2(x, -y)
    theta -= sector * np.round(theta / sector)
    away = np.hypot(x, y)
    px, py = away * np.cos(theta), away * np.abs(np.sin(theta))
    ex, ey = inner * np.cos(sector / 2) - outer, inner * np.sin(sector / 2)
    return (ey * (px - outer) - ex * py) / np.hypot(ex, ey)


# How far from its centre a shape of unit radius goes, its soft corners included.
REACH = {"circle": 1, "ring": 1.02, "cross": 1.2, "square": 1.25, "triangle": 1.25, "star": 1.25}


def distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a shape of unit radius: negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - 1.0
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.78) - 0.24
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.85
    if shape == "cross":
        x, y = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(x - 1, y - 0.34), np.maximum(x - 0.34, y - 1))
    if shape == "triangle":
        return _polygon(x, y, 3, 1.2, 0.6)
    return _polygon(x, y, 5, 1.2, 0.52)
