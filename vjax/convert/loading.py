"""The networks of a directory of diffusers' layout: which tensor each parameter is made of."""

import pathlib

import jax
import numpy as np

from vjax import convert, models, tensors
from vjax.convert.directory import FOLDERS
from vjax.stored import Stored
from vjax.tensors import BundleError, Tensor

_STEMS = {"text": ("model",), "image": ("model",)}


def network(
    directory: pathlib.Path, name: str, config: convert.Network
) -> tuple[models.Params, list[str]]:
    """The parameters of a network, none of which is read yet, and all that is wrong with them.

    Args:
        name: "dit", "low", "vae", "text" or "image".
    """
    try:
        found = tensors_of(directory, name)
    except BundleError as error:
        return {}, [str(error).rstrip(".")]
    sources = convert.sources(config)
    known = {theirs: found[actual] for theirs, actual in convert.known_as(config, found).items()}
    wanted = {name: source.shape for source in sources.values() for name in source.names}
    problems = tensors.differences(FOLDERS[name], wanted, known)
    if problems:
        return {}, problems

    def stored(path, leaf) -> Stored:
        source = sources[".".join(str(key.key) for key in path)]
        made_of = tuple(known[each] for each in source.names)
        return Stored(leaf.shape, np.dtype(np.float32), made_of, source)

    return jax.tree.map_with_path(stored, models.abstract(config)), []


def tensors_of(directory: pathlib.Path, name: str) -> dict[str, Tensor]:
    """The tensors of a network, by the names that they have there. Raises BundleError."""
    stems = _STEMS.get(name, ("diffusion_pytorch_model",))
    return tensors.checkpoint(directory / FOLDERS[name], stems)
