"""Tensors in safetensors files: what their headers say, and each read when it is needed."""

import collections
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping

import jax
import numpy as np
from safetensors import SafetensorError, safe_open

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jax.numpy.bfloat16),
    "I8": np.dtype(np.int8),
}
# What single numbers beside weights may be of too.
NUMBERS = DTYPES | {
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
_SAMPLED = 64  # bytes of each tensor
_SOME = 3
_POINTER = b"version https://git-lfs"


class BundleError(ValueError):
    """A model that cannot be loaded; the message says what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is still in its file.

    Args:
        dtype: as the file has it; one of `DTYPES` can be read.
        offset: of its first byte.
    """

    file: pathlib.Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read(self, rows: slice = slice(None)) -> np.ndarray:
        """Its numbers, or some rows of its first axis, as the file has them.

        Raises:
            BundleError: the file cannot be read, or is another by now.
        """
        dtype, shape, offset = NUMBERS[self.dtype], self.shape, self.offset
        if shape:
            start, stop, step = rows.indices(shape[0])
            if step != 1:
                raise ValueError("Rows are read in order.")
            row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
            offset += start * row
            shape = (max(stop - start, 0), *shape[1:])
        value = np.empty(shape, dtype)
        view = value.reshape(-1).view(np.uint8).data
        try:
            with self.file.open("rb", buffering=0) as file:
                file.seek(offset)
                while view:
                    count = file.readinto(view)
                    if not count:
                        raise BundleError(f"{self.file} ends within {self.name}.")
                    view = view[count:]
        except OSError as error:
            raise BundleError(f"{self.file} cannot be read: {error.strerror}.") from error
        return value


def header(file: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of a file, whose data are not read.

    Raises:
        BundleError: it is missing, cut short, or no safetensors file.
    """
    try:
        if file.is_symlink() and not file.exists():
            raise BundleError(f"{file} is a link to {os.readlink(file)}, which is not there.")
        with safe_open(file, framework="numpy"):
            pass  # the library has checked that the header is sound and the file as long as it says
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            described = json.loads(opened.read(size))
    except FileNotFoundError:
        raise BundleError(f"{file} is missing.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"{file} cannot be read: {_reason(file, error)}.") from error
    return {
        name: Tensor(
            file, name, each["dtype"], tuple(each["shape"]), 8 + size + each["data_offsets"][0]
        )
        for name, each in described.items()
        if name != "__metadata__"
    }


def metadata(file: pathlib.Path) -> dict[str, str]:
    """The texts that a file's header holds beside its tensors. Raises BundleError, as `header`."""
    header(file)
    with safe_open(file, framework="numpy") as opened:
        return opened.metadata() or {}


def checkpoint(directory: pathlib.Path, stems: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of a network: of one file, or of shards that an index lists.

    Args:
        stems: the names that its files may have, before `.safetensors`.

    Raises:
        BundleError: says all that is wrong with the files.
    """
    for stem in stems:
        index = directory / f"{stem}.safetensors.index.json"
        if index.is_file():
            return _sharded(index)
        file = directory / f"{stem}.safetensors"
        if file.exists() or file.is_symlink():
            return header(file)
    stem = " or ".join(f"{stem}.safetensors" for stem in stems)
    if not directory.is_dir():
        raise BundleError(f"{directory} is missing.")
    there = sorted(path.name for path in directory.iterdir())
    pickles = [name for name in there if name.endswith(PICKLES)]
    if pickles:
        raise BundleError(
            f"{directory} holds {pickles[0]} and no {stem}: such a file is a pickle, which can run "
            "any code when it is read, so it is not. Get or make the safetensors files."
        )
    parts = [name for name in there if name.endswith(".safetensors")]
    also = f", but {parts[0]}: its index is missing or it has another name" if parts else ""
    raise BundleError(f"{directory} holds no {stem}{also}.")


def differences(
    where: str,
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, Tensor],
    dtypes: Collection[str] = ("F32", "F16", "BF16"),
) -> list[str]:
    """What is wrong with the tensors of a network, which should have these names and shapes."""
    problems = [f"{where} lacks {name}" for name in grouped(set(wanted) - set(found))]
    problems += [f"{where} has an unknown {name}" for name in grouped(set(found) - set(wanted))]
    misfits: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(set(wanted) & set(found)):
        tensor = found[name]
        if tensor.shape != tuple(wanted[name]):
            misfits[f"is {tensor.shape}, should be {tuple(wanted[name])}"].append(name)
        elif tensor.dtype not in dtypes:
            allowed = " or ".join(dtypes)
            misfits[f"is of type {tensor.dtype}, should be of {allowed}"].append(name)
    for misfit, names in misfits.items():
        problems += [f"{where}: {name} {misfit}" for name in grouped(names)]
    return problems


def sample(file: pathlib.Path, use: Callable[[bytes], object]) -> None:
    """Hands over the header of a file, and the first bytes of each of its tensors.

    Raises:
        BundleError: it cannot be read.
    """
    found = header(file)
    try:
        with file.open("rb") as opened:
            use(opened.read(min((each.offset for each in found.values()), default=8)))
            for each in sorted(found.values(), key=lambda each: each.offset):
                opened.seek(each.offset)
                use(opened.read(_SAMPLED))
    except OSError as error:
        raise BundleError(f"{file} cannot be read: {error.strerror}.") from error


def _sharded(index: pathlib.Path) -> dict[str, Tensor]:
    try:
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(listed.values()))
        if not all(shard == pathlib.PurePath(shard).name for shard in shards):
            raise ValueError("a shard lies elsewhere")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{index} cannot be read: {error!r}.") from error
    found: dict[str, Tensor] = {}
    problems = []
    for shard in shards:
        try:
            there = header(index.parent / shard)
        except BundleError as error:
            problems.append(str(error).rstrip("."))
            continue
        wanted = {name for name, where in listed.items() if where == shard}
        lacks, more = sorted(wanted - set(there)), sorted(set(there) - wanted)
        if lacks:
            problems.append(
                f"{index.parent / shard} lacks {some(lacks)}, which {index.name} says it has"
            )
        if more:
            problems.append(
                f"{index.parent / shard} has {some(more)}, which {index.name} does not list there"
            )
        found |= there
    if problems:
        raise BundleError("; ".join(problems) + ".")
    return found


def grouped(names: Iterable[str]) -> list[str]:
    """Names in order, those of the same place in several layers as one."""
    groups = collections.Counter(_LAYER.sub("*", name) for name in names)
    single = {_LAYER.sub("*", name): name for name in names}
    return [
        f"{group} ({count} times)" if count > 1 else single[group]
        for group, count in sorted(groups.items())
    ]


def some(names: Iterable[str]) -> str:
    """Names as a sentence has them: the first three, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _SOME} more" if len(names) > _SOME else ""
    return ", ".join(names[:_SOME]) + more


def _reason(file: pathlib.Path, error: Exception) -> str:
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_POINTER))
    except OSError:
        start = b""
    if start == _POINTER:
        return "it is only a pointer to a large file: fetch it, as with `git lfs pull`"
    if isinstance(error, SafetensorError):
        return f"it was cut short or is damaged ({error}): get it again"
    return str(error)
