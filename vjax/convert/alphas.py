"""alpha of a LoRA file's layers: in tensors, in its header, or in peft's settings beside it."""

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from vjax import tensors
from vjax.tensors import BundleError, Tensor

ADAPTER = "adapter_model.safetensors"  # as peft names its file
METADATA = "lora_adapter_metadata"  # of a file that diffusers saves: peft's settings
_SETTINGS = "adapter_config.json"
_LONGEST_JSON = 2**20  # bytes


class Alphas:
    """alpha / rank of each layer, as the file says it; 1 where it says nothing."""

    def __init__(self, file: pathlib.Path):
        self._file, self._settings = file, _adapter(file)

    def over(self, layer: str, known: str, rank: int, alpha: Tensor | None) -> float:
        """By what the product of a layer's matrices is scaled.

        Args:
            layer, known: its name in the file, and as diffusers has it.
            alpha: the file's own for it.

        Raises:
            BundleError: it is no number.
        """
        value = self._said(layer, known) if alpha is None else _number(alpha)
        if value is None:
            return 1.0
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
            raise BundleError(f"{self._file}: the alpha of {layer} is {value!r}, which is none.")
        by_root = alpha is None and self._settings.get("use_rslora")
        return value / (math.sqrt(rank) if by_root else rank)

    def _said(self, layer: str, known: str) -> Any:
        """peft's alpha of a layer, for which a pattern may have its own."""
        patterns = self._settings.get("alpha_pattern")
        for pattern, alpha in patterns.items() if isinstance(patterns, dict) else ():
            if _ends(layer, pattern) or _ends(known, pattern):
                return alpha
        return self._settings.get("lora_alpha")


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
    stored = tensors.metadata(file).get(METADATA)
    settings = beside(file)
    try:
        if stored is not None:
            found = json.loads(stored)
            # Each has the name of its network before it.
            return {re.sub(r"^transformer(_2)?\.", "", key): value for key, value in found.items()}
        if settings is not None:
            if settings.stat().st_size > _LONGEST_JSON:
                raise ValueError("it is too long")
            return dict(json.loads(settings.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        where = file if stored is not None else settings
        raise BundleError(f"The settings in {where} cannot be read: {error}.") from error
    return {}


def beside(file: pathlib.Path) -> pathlib.Path | None:
    """peft's settings of a LoRA file, which say its alpha."""
    settings = file.parent / _SETTINGS
    return settings if file.name == ADAPTER and settings.is_file() else None
