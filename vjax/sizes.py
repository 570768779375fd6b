"""The sizes that a model makes, and which of them is near to one that is asked for."""

import math

from vjax.config import ModelConfig
from vjax.timeline import RequestError

LONGEST_SIDE = 16_384  # pixels of what is made in tiles: as large as the frames of a file
CUT = 16  # a larger picture of another shape may lose this share of a side, as 1 / CUT


def size_step(model: ModelConfig) -> int:
    """Width and height are multiples of this."""
    return model.vae.spatial_ratio * max(model.dit.patch[1:])


def check_size(model: ModelConfig, width: int, height: int, tiled: bool = False) -> None:
    """Raises RequestError for a size that the model cannot make, naming the nearest."""
    step, low, high = _sides(model, tiled)
    near = nearest_size(model, width, height, tiled)
    if (width, height) != near:
        raise RequestError(
            f"{model.name} cannot make {width}x{height}: sides are multiples of {step} from {low} "
            f"to {high}. The nearest is {near[0]}x{near[1]}."
        )


def nearest_size(
    model: ModelConfig, width: int, height: int, tiled: bool = False
) -> tuple[int, int]:
    """A size that the model makes: that which is asked for, or one of about its shape."""
    step, low, high = _sides(model, tiled)
    scale = min(high / max(width, height, 1), 1)
    scale = max(scale, low / max(min(width, height), 1))
    sides = (round(min(side * scale, high) / step) * step for side in (width, height))
    near = tuple(min(max(side, low), high) for side in sides)
    return near[0], near[1]


def _sides(model: ModelConfig, tiled: bool) -> tuple[int, int, int]:
    """What width and height are multiples of, the least and the most of them."""
    step, longest = size_step(model), LONGEST_SIDE if tiled else model.max_side
    return step, math.ceil(model.min_side / step) * step, longest // step * step


def check_larger(model: ModelConfig, given: tuple[int, int], size: tuple[int, int]) -> None:
    """Raises RequestError for a size that is smaller than what is given, or of another shape."""
    if (wrong := _no_larger(given, size)) is None:
        return
    (width, height), (new_width, new_height) = given, size
    shaped = (
        (new_width, round(new_width * height / width)),
        (round(new_height * width / height), new_height),
        *((width * times, height * times) for times in (2, 3, 4)),
    )
    near = dict.fromkeys(nearest_size(model, *each, tiled=True) for each in shaped)
    can = [f"{each[0]}x{each[1]}" for each in near if _no_larger(given, each) is None]
    raise RequestError(
        f"{new_width}x{new_height} {wrong.format(f'{width}x{height}')}: choose "
        f"{' or '.join(can[:2]) or 'a larger size of that shape'}."
    )


def _no_larger(given: tuple[int, int], size: tuple[int, int]) -> str | None:
    """Why a size is no larger one of what is given; None: it is."""
    if any(new < old for new, old in zip(size, given, strict=True)):
        return "is smaller than the video, which is {}"
    scales = [new / old for new, old in zip(size, given, strict=True)]
    if min(scales) / max(scales) < 1 - 1 / CUT:
        return "has another shape than the video, which is {}, so that much of it would be cut off"
    return None


def fitting_size(model: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """The model's size of about its native area whose shape is nearest to width : height."""
    step, low, high = _sides(model, tiled=False)
    area = model.width * model.height
    best, smallest = (model.width, model.height), math.inf
    for w in range(low, high + 1, step):
        for h in range(low, high + 1, step):
            if 0.75 * area <= w * h <= 1.25 * area:
                shape = abs(math.log(w / h * height / width))
                cost = shape + 0.1 * abs(math.log(w * h / area))
                if cost < smallest:
                    best, smallest = (w, h), cost
    return best
