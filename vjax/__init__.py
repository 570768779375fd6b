"""vjax: video generation with diffusion transformers, in JAX.

    import vjax
    pipe = vjax.load("default")
    video = pipe(vjax.text("a red circle moves right"), seed=0)     # uint8 [T H W 3]

A verb (`text`, `animate`, `extend`, `infill`) says what is known as a `Timeline`, and a loaded
pipeline makes the rest.
"""

from vjax.pipeline import Pipeline, load
from vjax.timeline import RequestError, Timeline
from vjax.verbs import animate, extend, infill, text
from vjax.video import MediaError
from vjax.weights import BundleError

__all__ = [
    "BundleError",
    "MediaError",
    "Pipeline",
    "RequestError",
    "Timeline",
    "animate",
    "extend",
    "infill",
    "load",
    "text",
]
