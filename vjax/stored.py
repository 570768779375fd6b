"""Parameters that are still in their files, each made of one tensor or of one for each layer."""

import dataclasses

import jax
import numpy as np

from vjax.convert import Source
from vjax.tensors import Tensor, TensorError


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """A parameter that is still in files.

    Args:
        shape: of all of it, as our network has it.
        tensors: one, or one for each layer of a stack.
        source: how tensors become ours.
        scale: of the columns of a tensor of whole numbers.
    """

    shape: tuple[int, ...]
    tensors: tuple[Tensor, ...]
    source: Source
    scale: Tensor | None = None

    def read(self, dtype: jax.typing.DTypeLike) -> np.ndarray:
        """All of it in memory.

        Raises:
            TensorError: a file cannot be read, or holds what is no number.
        """
        if not self.source.stacked:
            return self._layer(self.tensors[0]).astype(dtype)
        value = np.empty(self.shape, dtype)
        for layer, tensor in zip(value, self.tensors, strict=True):
            layer[...] = self._layer(tensor)
        return value

    def _layer(self, tensor: Tensor) -> np.ndarray:
        value = tensor.read()
        if self.scale is not None:
            value = value * self.scale.read().astype(np.float32)
        if not np.isfinite(value).all():
            raise TensorError(f"{tensor.file}: {tensor.name} holds NaN or infinite numbers.")
        return self.source.ours(value)
