"""A model as a directory of diffusers' layout: a copy of a published one with another DiT in it.

Names and shapes are turned back by the tables that published files are read by.
"""

import functools
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from vjax import convert, models, tensors, weights
from vjax.config import DiTConfig
from vjax.convert import Source, loading
from vjax.convert.directory import FOLDERS
from vjax.loras import Lora
from vjax.stored import Stored, sound
from vjax.tensors import BundleError

_DITS = ("dit", "low")


def export(
    name: str, directory: pathlib.Path, base: str | None = None, loras: Sequence[Lora] = ()
) -> tuple[str, ...]:
    """Writes a model as diffusers loads it.

    All but the DiT, or both of them, is copied. Their files, tensors and types are those of the
    published model, so one that is exported as it is keeps every byte of its tensors. The host
    holds one file of them at a time. A directory that is written in part never has its name.

    Args:
        directory: not there yet, or empty.
        base: the published model that it was made from; None: it is one itself.
        loras: what is added to its weights.

    Returns:
        Notes on what was made of these files.

    Raises:
        BundleError: something is in the directory, a model cannot be read, the two have not the
            same DiT, weights become infinite, or a file cannot be written.
    """
    directory = directory.resolve()
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise BundleError(
            f"{directory} is there already: choose a name that is not, or an empty directory."
        )
    base = base or name
    place = weights.find(base, whole=True).resolve()
    if not weights.is_published(place):
        raise BundleError(
            f"{base} is a bundle, so it has no files for diffusers: say which published model it "
            "was made from, with --base DIRECTORY."
        )
    model, other = weights.read_config(name), weights.read_config(base)
    parts = ("dit", "boundary", "conditioning")
    if differ := [part for part in parts if getattr(model, part) != getattr(other, part)]:
        raise BundleError(f"{name} was not made from {base}: its {', '.join(differ)} differs.")
    weights.open(base)  # which must be whole
    bundle = weights.open(name, _DITS, loras)
    params = bundle.params
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        work = pathlib.Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise BundleError(f"{directory} cannot be written: {error.strerror}.") from error
    replaced = {str(place / FOLDERS[network]) for network in params}

    def left_out(folder: str, names: list[str]) -> list[str]:
        made = ".safetensors" if folder in replaced else "\0"
        return [each for each in names if each.startswith(".") or each.endswith(made)]

    try:
        shutil.copytree(place, work, ignore=left_out, dirs_exist_ok=True)
        for network, tree in params.items():
            made = _made(model.dit, tree)
            for file in {each.file for each in loading.tensors_of(place, network).values()}:
                _write(work / FOLDERS[network] / file.name, file, made)
        work.chmod(0o755)
        work.rename(directory)  # in the place of an empty one
    except shutil.Error as error:  # of several files, each with its reason
        (*_, reason), *_ = error.args[0]
        raise BundleError(f"{directory} cannot be written: {reason}.") from error
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{directory} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return bundle.notes


def _made(config: DiTConfig, params: models.Params) -> dict[str, Callable[[], np.ndarray]]:
    """What reads each tensor of a DiT, by its published name."""
    stored = weights.flatten(params)
    return {
        published: functools.partial(_tensor, stored[name], source, layer)
        for name, source in convert.sources(config).items()
        for layer, published in enumerate(source.names)
    }


def _tensor(stored: Stored, source: Source, layer: int) -> np.ndarray:
    pieces = stored.pieces(rows=False)
    if stored.source == source:  # it lies in published files
        return pieces[layer].read(slice(None))
    (piece,) = pieces
    if not source.stacked:
        return source.way.theirs(piece.read(slice(None)))
    return source.way.theirs(piece.read(slice(layer, layer + 1))[0])


def _write(
    file: pathlib.Path, like: pathlib.Path, made: Mapping[str, Callable[[], np.ndarray]]
) -> None:
    """A file as another one, but for the tensors that are made."""
    found = {}
    for name, tensor in tensors.header(like).items():
        value = made[name]() if name in made else tensor.read()
        if name in made:
            with np.errstate(over="ignore"):
                value = value.astype(tensors.DTYPES[tensor.dtype], copy=False)
            if not sound(value):
                raise BundleError(
                    f"{like.name}: {name} would hold NaN or infinite numbers as {tensor.dtype}: is "
                    "the model whole, and are LoRA files given at scales that they were made for?"
                )
        found[name] = np.ascontiguousarray(value).reshape(tensor.shape)
    save_file(found, file, tensors.metadata(like))
    file.chmod(0o644)
