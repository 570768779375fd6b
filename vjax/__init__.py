"""vjax: video generation with diffusion transformers, in JAX.

    import vjax
    pipe = vjax.load("default")
    video = pipe(vjax.text("a red circle moves right"), seed=0)     # uint8 [T H W 3]

A verb (`text`, `animate`, `extend`, …) says what is known as a `Timeline`, and a loaded
pipeline makes the rest. Nothing is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING

from vjax.verbs import VERBS, function

if TYPE_CHECKING:  # for editors
    from vjax.pipeline import Pipeline as Pipeline
    from vjax.pipeline import load as load
    from vjax.timeline import RequestError as RequestError
    from vjax.timeline import Timeline as Timeline
    from vjax.verbs.animate import animate as animate
    from vjax.verbs.blend import blend as blend
    from vjax.verbs.bridge import bridge as bridge
    from vjax.verbs.extend import extend as extend
    from vjax.verbs.infill import infill as infill
    from vjax.verbs.inpaint import inpaint as inpaint
    from vjax.verbs.interpolate import interpolate as interpolate
    from vjax.verbs.keyframes import keyframes as keyframes
    from vjax.verbs.loop import loop as loop
    from vjax.verbs.recut import recut as recut
    from vjax.verbs.remix import remix as remix
    from vjax.verbs.storyboard import storyboard as storyboard
    from vjax.verbs.text import text as text
    from vjax.verbs.upscale import upscale as upscale
    from vjax.video import MediaError as MediaError
    from vjax.weights import BundleError as BundleError

_HOME = {
    "BundleError": "weights",
    "MediaError": "video",
    "Pipeline": "pipeline",
    "RequestError": "timeline",
    "Timeline": "timeline",
    "load": "pipeline",
}

__all__ = [*_HOME, *VERBS]


def __getattr__(name: str):
    if name in VERBS:
        return function(name)
    if name in _HOME:
        return getattr(importlib.import_module(f"vjax.{_HOME[name]}"), name)
    raise AttributeError(f"module 'vjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
