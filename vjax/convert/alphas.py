"""alpha of a LoRA file's layers: in tensors, in its header, or in peft's settings beside it."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from vjax import tensors
from vjax.config import ConfigError
from vjax.convert.directory import FOLDERS, described, parsed
from vjax.tensors import BundleError, Tensor

ADAPTER = "adapter_model.safetensors"  # as peft names its file
METADATA = "lora_adapter_metadata"  # of a file that diffusers saves: peft's settings
_SETTINGS = "adapter_config.json"


class Alphas:
    """alpha / rank of each layer, as the file says it; 1 where it says nothing."""

    def __init__(self, file: pathlib.Path):
        self._file, self._settings = file, _adapter(file)

    def over(
        self, expert: str | None, layer: str, known: str, rank: int, alpha: Tensor | None
    ) -> float:
        """By what the product of a layer's matrices is scaled.

        Args:
            expert: "dit" or "low", where the file says whose the layer is.
            layer, known: its name in the file, and as diffusers has it.
            alpha: the file's own for it.

        Raises:
            BundleError: it is no number.
        """
        # diffusers puts the name of the network before each setting.
        network = f"{FOLDERS[expert or 'dit']}."
        settings = {key.removeprefix(network): value for key, value in self._settings.items()}
        value = _said(settings, layer, known) if alpha is None else _number(alpha)
        if value is None:
            return 1.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            raise BundleError(f"{self._file}: the alpha of {layer} is {value!r}, which is none.")
        by_root = alpha is None and settings.get("use_rslora")
        return value / (math.sqrt(rank) if by_root else rank)


def _said(settings: Mapping[str, Any], layer: str, known: str) -> Any:
    """peft's alpha of a layer, for which a pattern may have its own."""
    patterns = settings.get("alpha_pattern")
    for pattern, alpha in patterns.items() if isinstance(patterns, dict) else ():
        if _ends(layer, pattern) or _ends(known, pattern):
            return alpha
    return settings.get("lora_alpha")


def _number(alpha: Tensor) -> float:
    if math.prod(alpha.shape) != 1 or alpha.dtype not in tensors.NUMBERS:
        raise BundleError(f"{alpha.file}: {alpha.name} must be one number.")
    return float(alpha.read().reshape(()))


def _ends(name: str, pattern: str) -> bool:
    """Whether peft would take a pattern for this layer."""
    pattern = pattern.removeprefix("^")
    return name == pattern or name.endswith(f".{pattern}")


def _adapter(file: pathlib.Path) -> Mapping[str, Any]:
    """peft's settings of an adapter: in the file, as diffusers saves them, or beside it."""
    stored, settings = tensors.metadata(file).get(METADATA), beside(file)
    try:
        if stored is not None:
            return parsed(stored, f"The {METADATA} of {file}")
        return {} if settings is None else described(settings)
    except ConfigError as error:
        raise BundleError(str(error)) from error


def beside(file: pathlib.Path) -> pathlib.Path | None:
    """peft's settings of a LoRA file, which say its alpha."""
    settings = file.parent / _SETTINGS
    return settings if file.name == ADAPTER and settings.is_file() else None
