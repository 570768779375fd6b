"""What a model can be asked for, by the way in which it takes known frames."""

from collections.abc import Sequence

from vjax.canvas import Canvas
from vjax.config import ModelConfig
from vjax.segments import Segment
from vjax.timeline import RequestError

# Which models can what some cannot, for the user to choose from.
AFTER = (
    "the default model, Wan T2V, VACE and SkyReels-V2 DF models, and for a first and a last frame "
    "FLF2V and Wan 2.2 I2V-A14B"
)
MASKS = "the default model and Wan VACE models"
PARTLY = "text-to-video models such as Wan 2.1 T2V"


def check(
    model: ModelConfig,
    canvas: Canvas,
    segments: Sequence[Segment],
    *,
    guided: bool,
    references: bool,
    tiled: bool,
    moved: bool,
) -> None:
    """Raises RequestError for what a model cannot be told of; says which models can.

    Args:
        guided: something guides at a time without being a frame; `references`, without one.
        tiled: the picture is larger than the model makes.
        moved: what is given moves from one text to another.
    """
    kind, name = model.conditioning, model.name
    if kind == "anchors":
        return
    unevenly = any(canvas.unevenly_known(segment.first, segment.stop) for segment in segments)
    lasts = [segment.last(canvas.frames, model.vae.temporal_ratio) for segment in segments]
    behind = any(segment.clips for segment in segments)
    at_once = all(segment.ring for segment in segments)
    for wrong, cannot, who in (
        (guided, "be guided by frames between its own", "the default model"),
        (
            references and kind != "control",
            "be shown what a subject looks like",
            MASKS,
        ),
        (
            references and moved,
            "be shown a subject where what is given moves from text to text",
            "the default model",
        ),
        (
            canvas.loop and not canvas.given and not at_once,
            "make a loop that is longer than it makes at once",
            "the default model",
        ),
        (
            canvas.loop and not canvas.given and kind in ("channels", "control"),
            "make a loop from words alone",
            "the default model and text-to-video models",
        ),
        (
            unevenly and kind not in ("renoise", "control"),
            "fill in a part of a frame",
            MASKS,
        ),
        (canvas.departs and kind == "channels", "depart from what is given", PARTLY),
        (tiled and kind in ("channels", "control"), "make pictures in tiles", PARTLY),
        (
            kind == "channels" and not all(segment.prefix for segment in segments),
            "make a video whose first frame is not given",
            f"for words alone {PARTLY}, and for what comes before a clip VACE and SkyReels-V2 DF",
        ),
        (
            kind == "channels" and bool(model.dit.image_tokens) and not canvas.known[lasts].all(),
            "make a video whose last frame is not given",
            "Wan I2V and TI2V models",
        ),
        (
            behind and (kind == "first_frame" or (kind == "channels" and _sees_one(model))),
            "be told of frames that come after what it makes",
            AFTER,
        ),
        (
            kind == "first_frame" and any(segment.backwards for segment in segments),
            "make what comes before a clip",
            AFTER,
        ),
    ):
        if wrong:
            raise RequestError(f"{name} cannot {cannot}; those that can: {who}.")


def _sees_one(model: ModelConfig) -> bool:
    """Whether it looks at one image, the first frame."""
    return model.image is not None and not model.dit.image_tokens
