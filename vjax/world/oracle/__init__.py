"""The oracle: reads the facts of a clip of the captioned world back from its pixels alone.

`read` never sees the prompt or the facts. It finds the cuts, the background, the things on it, what
each one is and does, and the camera's move; `agree` then compares that with the facts that were
asked for. Generated clips have soft edges and slightly wrong colours, so every decision has a
tolerance; where nothing fits well, the answer is `UNKNOWN` instead of the nearest word.

Steps: split at cuts, fit the background's gradient frame by frame, keep what stands out from it,
name its colours, estimate how much of each pixel a thing covers (its ink), and match the ink,
scaled by its radius of gyration, with templates drawn by the world's own distance functions. Motion
is the curve of the world (rest, slide, parabola, orbit) that fits the track best.
"""

import hashlib
import pathlib

from vjax.world.oracle.agreement import agree
from vjax.world.oracle.background import UNKNOWN
from vjax.world.oracle.reading import Reading, ShotReading, ThingReading, read, track

__all__ = ["UNKNOWN", "Reading", "ShotReading", "ThingReading", "agree", "read", "track", "version"]


def version() -> str:
    """Changes with every source that the oracle reads by: what two versions say may differ."""
    here = pathlib.Path(__file__).parent
    sources = [*here.glob("*.py"), here.parent / "facts.py", here.parent / "shapes.py"]
    digest = hashlib.sha256()
    for path in sorted(sources):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
