"""LoRA files of the Wan family: what each changes of a transformer, whoever wrote it.

Trainers and tools name the same layer and its two matrices in many ways. What is read here is a
`Change` of a published tensor, by the name that diffusers has for it.
"""

import collections
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from vjax import convert, tensors
from vjax.config import DiTConfig
from vjax.convert import alphas, wan
from vjax.convert.alphas import Alphas
from vjax.loras import EXPERTS
from vjax.tensors import BundleError, Tensor, some

FILES = ("pytorch_lora_weights.safetensors", alphas.ADAPTER)  # diffusers', peft's
_EXPERT = "vjax.expert"  # in the header of what we save: "high" or "low"
_FLOATS = ("F64", "F32", "F16", "BF16")
_PREFIX = re.compile(
    r"(?:base_model\.model\.|diffusion_model\.|(?P<low>transformer_2\.)|transformer\.|pipe\.|dit\.|"
    r"model\.|module\.|unet\.|lora_unet_+|lora_transformer_|lycoris_)"
)
_PART = re.compile(
    r"(?P<layer>.+?)(?:"
    r"[._]lora(?:_linear_layer)?[._](?P<side>A|B|down|up)"
    r"(?:\.(?!(?:weight|bias)$)[^.]+)?(?:\.(?P<leaf>weight|bias))?"
    r"|\.(?P<kind>alpha|diff|diff_b|diff_m|w_norm|b_norm))"
)
_SIDES = {"A": "down", "down": "down", "B": "up", "up": "up"}
_KINDS = {"w_norm": "diff", "b_norm": "diff_b"}
_OTHERS = {
    "DoRA": ("dora_scale", "lora_magnitude_vector"),
    "LoHa": ("hada_",),
    "LoKr": ("lokr_",),
    "OFT": ("oft_",),
    "a LoRA of three matrices": ("lora_mid",),
}
# What image to video has more of, which a file for text to video need not fit.
_MAY_MISFIT = ("patch_embedding.weight", "vace_patch_embedding.weight")
_USES = (  # what a file may say of how it is used
    "steps",
    "num_inference_steps",
    "guidance",
    "guidance_scale",
    "solver",
    "sampler",
    "shift",
    "trigger_phrase",
    "usage_hint",
)
# The expert that it is of, where the file says that, and its name without what is put before.
Layer = tuple[str | None, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Change:
    """What is added to a published tensor: `scale` times a difference, or a product of two.

    Args:
        up: [out, rank], or the difference where there is no `down`, [rank, in].
    """

    shape: tuple[int, ...]
    scale: float
    up: Tensor
    down: Tensor | None = None

    @np.errstate(over="ignore", invalid="ignore")  # what becomes infinite is found in the sum
    def rows(self, rows: slice) -> np.ndarray:
        """Of some rows, in float32.

        Raises:
            BundleError: the file holds what is no number, or cannot be read.
        """
        scale = np.float32(self.scale)
        if self.down is None:
            return scale * _numbers(self.up).reshape(self.shape)[rows]
        up, down = _numbers(self.up, rows), scale * _numbers(self.down)
        value = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
        return value.reshape(len(up), *self.shape[1:])


class Misfit(NamedTuple):
    """A change that does not fit its tensor: how large it is, and should be."""

    name: str
    found: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What a file changes of a transformer.

    Args:
        changes: by the published names of its tensors; of one expert, "dit" or "low", where the
            file says which.
        layers: how many layers the file has, of which `applied` are changed.
        left_out: names of the others, those of the same place in several blocks as one.
        settings: what the file says of how to sample with it.
    """

    changes: Mapping[str | None, Mapping[str, Change]]
    layers: int
    applied: int
    left_out: tuple[str, ...]
    settings: Mapping[str, str]


def read(name: str, config: DiTConfig, scale: float, expert: str | None = None) -> Found:
    """What a LoRA file changes of a transformer, none of which is read yet but its sizes.

    Args:
        name: a file, or the directory that peft or diffusers saved.
        expert: "dit" or "low", which a file that is for both is read for; None: for the one that
            the file names, or both.

    Raises:
        BundleError: it is no such file, holds what cannot be applied, or is for another model or
            the other expert.
    """
    file = located(name)
    layers = _layers(file)
    if expert is not None:
        layers = {key: parts for key, parts in layers.items() if key[0] in (None, expert)}
        if not layers:
            raise BundleError(f"{file} has nothing for this expert: name it without @high or @low.")
    said = None if expert else EXPERTS.get(tensors.metadata(file).get(_EXPERT, ""))
    spellings, sources = _spellings(config), _shapes(config)
    scales = Alphas(file)
    changes: dict[str | None, dict[str, Change]] = collections.defaultdict(dict)
    left_out, misfits, applied = [], [], 0
    for key, parts in layers.items():
        where, layer = key[0] or said, key[1]
        known = spellings.get(layer)
        made = {} if known is None else _changes(file, key, known, parts, sources, scales, scale)
        wrong = [each for each in made.values() if isinstance(each, Misfit)]
        misfits += [each for each in wrong if each.name not in _MAY_MISFIT]
        if wrong or not made:
            left_out.append(layer)
            continue
        if twice := made.keys() & changes[where].keys():
            raise BundleError(f"{file}: {layer} and another layer both change {min(twice)}.")
        applied += 1
        changes[where] |= {name: c for name, c in made.items() if isinstance(c, Change)}
    if misfits:
        raise BundleError(f"{file} is for another model: {_first(misfits, config)}.")
    left_out = tensors.grouped(left_out)
    if not applied:
        raise BundleError(
            f"{file} is for another model: it changes {some(left_out)}, which this one has not, "
            "or of another shape."
        )
    return Found(changes, len(layers), applied, tuple(left_out), _settings(file))


def located(name: str) -> pathlib.Path:
    """The file of a LoRA, which may be named by its directory. Raises BundleError."""
    path = pathlib.Path(name)
    if path.is_dir():
        for file in FILES:
            if (path / file).is_file():
                return path / file
        parts = sorted(path.glob("*.safetensors"))
        if len(parts) == 1:
            return parts[0]
        raise BundleError(
            f"{path} is a directory with {len(parts) or 'no'} safetensors files: name the one to "
            "use."
        )
    if path.suffix in tensors.PICKLES:
        raise BundleError(
            f"{path} is a pickle, which can run any code when it is read, so it is not: get or "
            "make a safetensors file of it."
        )
    return path


def save(
    file: str | os.PathLike,
    config: DiTConfig,
    matrices: Mapping[str, tuple[np.ndarray, np.ndarray]],
    expert: Literal["high", "low"] | None = None,
) -> None:
    """Writes a LoRA as diffusers does, which it and `read` load again.

    Args:
        matrices: by the dotted names of our kernels, two whose product is added to each: [in, rank]
            and [rank, out], of one rank, with the axis of layers before where those are stacked.
        expert: of a model with two, the one that it is for, which `read` then takes it for.

    Raises:
        BundleError: the file cannot be written.
    """
    sources, found = convert.sources(config, own=True), {}
    for name, (down, up) in matrices.items():
        source = sources[name]
        pairs = zip(down, up, strict=True) if source.stacked else [(down, up)]
        for published, (a, b) in zip(source.names, pairs, strict=True):
            layer = published.removesuffix(".weight")
            a = source.way.theirs(np.asarray(a))
            b = np.asarray(b).T.reshape(-1, len(a), *(1,) * (a.ndim - 2))
            found[f"transformer.{layer}.lora_A.weight"] = np.ascontiguousarray(a)
            found[f"transformer.{layer}.lora_B.weight"] = np.ascontiguousarray(b)
    said = {"format": "pt"} if expert is None else {"format": "pt", _EXPERT: expert}
    try:
        save_file(found, file, said)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{file} cannot be written: {error}.") from error


def _layers(file: pathlib.Path) -> dict[Layer, dict[str, Tensor]]:
    """The parts that a file has of each layer."""
    found: dict[tuple[bool, str], dict[str, Tensor]] = collections.defaultdict(dict)
    refused, unread = [], []
    for name, tensor in tensors.header(file).items():
        other = next((k for k, v in _OTHERS.items() if any(mark in name for mark in v)), None)
        match = _PART.fullmatch(name)
        if other is not None:
            refused.append(f"{name} is of {other}")
            continue
        kind = None if match is None else _kind(match)
        if match is None or kind is None:
            unread.append(name)
            continue
        low, layer = _bare(match["layer"])
        if kind == "diff_m":  # of the parameter that modulates a block
            layer, kind = f"{layer.removesuffix('.modulation')}.modulation", "diff"
        parts = found[low, layer]
        if kind in parts:
            raise BundleError(f"{file} has {parts[kind].name} and {name}, which say the same.")
        if tensor.dtype not in _FLOATS and kind != "alpha":
            refused.append(f"{name} is of type {tensor.dtype}")
        parts[kind] = tensor
    if not found and not refused:
        raise BundleError(f"{file} is no LoRA file: it holds {some(unread) or 'nothing'}.")
    if refused:
        raise BundleError(
            f"{file} cannot be applied: {some(refused)}; what can be are two matrices for a layer "
            "(LoRA), and differences."
        )
    if unread:
        raise BundleError(f"{file} cannot be applied: it is not known what {some(unread)} means.")
    if not any(low for low, _ in found):
        return {(None, layer): parts for (_, layer), parts in found.items()}
    return {("low" if low else "dit", layer): parts for (low, layer), parts in found.items()}


def _kind(match: re.Match) -> str | None:
    """What a tensor is of its layer: down, up, bias, alpha, diff, diff_b or diff_m."""
    if match["side"] is None:
        return _KINDS.get(match["kind"], match["kind"])
    side = _SIDES[match["side"]]
    if match["leaf"] == "bias":
        return "bias" if side == "up" else None
    return side


def _bare(layer: str) -> tuple[bool, str]:
    """A layer's name without what is put before it, and whether that means the second expert."""
    low = False
    while (match := _PREFIX.match(layer)) is not None:
        low |= match["low"] is not None
        layer = layer[match.end() :]
    return low, layer


def _shapes(config: DiTConfig) -> dict[str, tuple[int, ...]]:
    sources = convert.sources(config, own=True).values()
    return {name: source.shape for source in sources for name in source.names}


def _spellings(config: DiTConfig) -> dict[str, str]:
    """How a file may name a layer or a parameter, and its name as diffusers has it."""
    layers = {re.sub(r"\.(weight|bias)$", "", name) for name in _shapes(config)}
    original = collections.defaultdict(list)
    for theirs, name in wan.ORIGINAL.items():
        original[name].append(theirs)
    found: dict[str, str] = {}
    for layer in layers:
        number = re.match(r"(?:vace_)?blocks\.(\d+)\.", layer)
        names = [layer, *original[layer]]
        if number is not None:
            pattern = re.sub(r"blocks\.\d+\.", "blocks.*.", layer, count=1)
            names += [each.replace("*", number[1]) for each in original[pattern]]
        for each in names:
            found |= {each: layer, each.replace(".", "_"): layer}
    return found


def _changes(
    file: pathlib.Path,
    key: Layer,
    known: str,
    parts: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    scales: Alphas,
    strength: float,
) -> dict[str, Change | Misfit]:
    """What is added to the weight and the bias of a layer.

    Raises:
        BundleError: a part is missing, or fits no other.
    """
    (expert, layer), (up, down, bias) = key, map(parts.get, ("up", "down", "bias"))
    if (up is None) != (down is None):
        there, lacks = (up, "lora_A (lora_down)") if down is None else (down, "lora_B (lora_up)")
        raise BundleError(f"{file} has {there.name}, and no {lacks} to go with it.")
    if up is None and not {"diff", "diff_b"} & parts.keys():
        name = next(iter(parts.values())).name
        raise BundleError(f"{file} has {name}, and no matrices for it.")
    if up is not None and "diff" in parts:
        raise BundleError(f"{file} has two matrices and a difference for {layer}.")
    weight = known if known in shapes else f"{known}.weight"
    made: dict[str, Change | Misfit] = {}
    if up is not None:
        rank, columns = down.shape[0] if down.shape else 0, math.prod(down.shape[1:])
        if not rank or not up.shape or math.prod(up.shape[1:]) != rank:
            raise BundleError(
                f"{file}: {up.name} {up.shape} and {down.name} {down.shape} have no rank in common."
            )
        factor = strength * scales.over(expert, layer, known, rank, parts.get("alpha"))
        is_, wanted = (up.shape[0], columns), shapes.get(weight)
        if wanted is None:
            return {}
        fits = is_ == (wanted[0], math.prod(wanted[1:])) and len(wanted) > 1
        made[weight] = Change(wanted, factor, up, down) if fits else Misfit(weight, is_, wanted)
        if bias is not None:
            made |= _difference(f"{known}.bias", factor, bias, shapes)
    if "diff" in parts:
        made |= _difference(weight, strength, parts["diff"], shapes)
    if "diff_b" in parts:
        if f"{known}.bias" in made:
            raise BundleError(f"{file} has two changes for the bias of {layer}.")
        made |= _difference(f"{known}.bias", strength, parts["diff_b"], shapes)
    return made


def _difference(
    name: str, scale: float, tensor: Tensor, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Change | Misfit]:
    wanted = shapes.get(name)
    if wanted is None:
        return {}
    if [n for n in tensor.shape if n != 1] != [n for n in wanted if n != 1]:
        return {name: Misfit(name, tensor.shape, wanted)}
    return {name: Change(wanted, scale, tensor)}


def _settings(file: pathlib.Path) -> dict[str, str]:
    """What the file says of how it is used."""
    said = tensors.metadata(file)
    return {key: said[key] for key in said if key.split(".")[-1] in _USES and said[key].strip()}


def _first(misfits: list[Misfit], config: DiTConfig) -> str:
    """What does not fit, with both widths where they are what differs."""
    for _, found, wanted in misfits:
        if len(found) == len(wanted):
            for is_, should in zip(found, wanted, strict=True):
                if should == config.width != is_:
                    return f"its width is {is_}, this model's {config.width}"
    name, found, wanted = misfits[0]
    return f"its change of {name} is {found}, the tensor {wanted}"


def _numbers(tensor: Tensor, rows: slice = slice(None)) -> np.ndarray:
    value = tensor.read(rows).astype(np.float32)
    if not np.isfinite(value).all():
        raise BundleError(f"{tensor.file}: {tensor.name} holds NaN or infinite numbers.")
    return value
