"""Parameters that are still in their files, and how they come onto devices: piece by piece.

A piece is a layer of a stack, or some rows of a large tensor. The host holds a few of them at a
time, and each device gets its own part of each: a model may be larger than the memory of its host.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from vjax.convert import Source, Way
from vjax.int8 import Int8, quantize
from vjax.parallel import rules
from vjax.tensors import BundleError, Tensor

LARGE = 2**24  # bytes of a parameter that is worth programs that put it together on a device
_PIECE = 2**28  # bytes of the largest piece that is made of rows
_STRIP, _ROWS = 2**21, 128  # bytes that a host reads at once, and rows that it turns
_READERS = 4  # threads of a host: while some wait for the disk, others turn
_ALIGNED = 64  # bytes
_AHEAD = 2  # pieces that are read while others go to devices

_MATRIX = "o i -> i o"  # how a matrix becomes ours

Place = Any  # where a parameter lies: a sharding, or one each of what `Int8` is made of


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """A parameter that is still in files.

    Args:
        shape, dtype: of all of it, as our network has it.
        tensors: one, or one for each layer of a stack.
        source: how tensors become ours.
        scale: of the columns of a tensor of whole numbers.
        added: for each tensor, what is added to rows of it, in float32; None: nothing.
        int8: whether it is `vjax.int8.Int8` on devices.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    tensors: tuple[Tensor, ...]
    source: Source
    scale: Tensor | None = None
    added: tuple[Callable[[slice], np.ndarray] | None, ...] = ()
    int8: bool = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.abstract))

    @property
    def abstract(self) -> Any:
        """Its shape and dtype on devices."""
        shape = jax.ShapeDtypeStruct(self.shape, self.dtype)
        return jax.eval_shape(quantize, shape) if self.int8 else shape

    def astype(self, dtype: jax.typing.DTypeLike) -> "Stored":
        """The same, to be read as another type."""
        return dataclasses.replace(self, dtype=jnp.dtype(dtype))

    def read(self) -> np.ndarray:
        """All of it, in memory of the host.

        Raises:
            BundleError: a file cannot be read, or holds what is no number.
        """
        value = _aligned(self.shape, self.dtype)

        def fill(piece: Piece) -> None:
            where = value[... if piece.place is None else piece.place]
            _fill(where[0] if self.source.stacked else where, piece, self.source.way)

        with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
            collections.deque(pool.map(fill, self.pieces()), 0)
        return value

    def pieces(self, rows: bool = True) -> list["Piece"]:
        """What it is read in, one after another.

        Args:
            rows: whether a large tensor is divided.
        """
        added = self.added or (None,) * len(self.tensors)
        if self.source.stacked:
            return [
                Piece(tensor, slice(None), slice(i, i + 1), added=added[i])
                for i, tensor in enumerate(self.tensors)
            ]
        (tensor,) = self.tensors
        count = self.shape[0] if self.shape else 1
        each = max(1, _PIECE * count // max(1, self.nbytes))
        if self.source.way.turn is not None or not rows or each >= count:
            return [Piece(tensor, slice(None), None, self.scale, added[0])]
        cuts = [slice(start, min(start + each, count)) for start in range(0, count, each)]
        return [Piece(tensor, cut, cut, self.scale, added[0]) for cut in cuts]


class Piece(NamedTuple):
    """Some rows of a tensor, and where they go along the first axis of a parameter.

    Args:
        place: None: they are all of it.
        added: of rows of the tensor, what is added to them.
    """

    tensor: Tensor
    rows: slice
    place: slice | None
    scale: Tensor | None = None
    added: Callable[[slice], np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        if not self.tensor.shape:
            return ()
        return (len(range(*self.rows.indices(self.tensor.shape[0]))), *self.tensor.shape[1:])

    def read(self, within: slice) -> np.ndarray:
        """Some of its rows."""
        rows = self.rows
        if self.tensor.shape:
            chosen = range(*self.rows.indices(self.tensor.shape[0]))[within]
            rows = slice(chosen.start, chosen.stop)
        value = self.tensor.read(rows)
        if self.scale is not None:
            by_rows = self.scale.shape[0] == self.tensor.shape[0]
            value = value * self.scale.read(rows if by_rows else slice(None)).astype(np.float32)
        if self.added is not None:
            value = value.astype(np.float32)
            value += self.added(rows)
        return value

    def no_number(self) -> BundleError:
        """What is said where not all of it is numbers."""
        if self.added is not None and sound(self._replace(added=None).read(slice(None))):
            return BundleError(
                f"With the LoRA files {self.tensor.name} holds NaN or infinite numbers: give them "
                "smaller scales, or leave them out."
            )
        return BundleError(f"{self.tensor.file}: {self.tensor.name} holds NaN or infinite numbers.")


def _fill(where: np.ndarray, piece: Piece, way: Way) -> None:
    """Writes a piece where it belongs; raises BundleError where it holds what is no number.

    It is read in strips that a cache holds, into memory that is used again: memory that no one had
    before costs more than the disk.
    """
    rows = math.prod(piece.shape[:1])
    each = max(1, _STRIP * rows // max(1, where.nbytes))
    whole = each >= rows or piece.added is not None or way.turn not in (None, _MATRIX)
    for start in [0] if whole else range(0, rows, each):
        part = piece.read(slice(None) if whole else slice(start, start + each))
        if not sound(part):
            raise piece.no_number()
        if way.turn == _MATRIX:
            _turn(where[:, start : start + len(part)], part)
        elif whole:
            where[...] = way.ours(part).reshape(where.shape)
        else:
            where[start : start + len(part)] = part


def _turn(where: np.ndarray, part: np.ndarray) -> None:
    for start in range(0, len(part), _ROWS):
        rows = part[start : start + _ROWS].astype(where.dtype, copy=False)
        _bits(where)[:, start : start + _ROWS] = _bits(rows).T


def sound(x: np.ndarray) -> bool:
    """Whether all of it is numbers."""
    strips = np.array_split(x.reshape(-1), max(1, x.nbytes // _STRIP))
    if x.dtype != jnp.bfloat16:
        return all(np.isfinite(strip).all() for strip in strips)
    # Of bfloat16 numpy knows nothing that is fast. What is no number has the largest exponent, so
    # that it is above all others of its sign.
    positive = max(strip.view(np.int16).max(initial=0) for strip in strips)
    negative = max(strip.view(np.uint16).max(initial=0) for strip in strips)
    return bool(positive < 0x7F80 and negative < 0xFF80)


def _bits(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint16) if x.dtype == jnp.bfloat16 else x


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory that a CPU device takes over without a copy."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    whole = np.empty(size + _ALIGNED, np.uint8)
    start = -whole.ctypes.data % _ALIGNED
    return whole[start : start + size].view(dtype).reshape(shape)


def put(tree: Any, mesh: Mesh | None) -> Any:
    """Parameters, of which some may be stored, on the devices, as `rules` says.

    All processes of a run call it alike.

    Raises:
        BundleError: a file cannot be read, or holds what is no number.
    """
    leaves, structure = jax.tree.flatten(tree)
    if mesh is None:
        device = jax.config.jax_default_device or jax.local_devices()[0]
        device = jax.local_devices(backend=device)[0] if isinstance(device, str) else device
        places = [SingleDeviceSharding(device)] * len(leaves)
    else:
        shapes = [x.abstract if isinstance(x, Stored) else x for x in leaves]
        shardings = rules.shardings(jax.tree.unflatten(structure, shapes), mesh)
        places = structure.flatten_up_to(shardings)
    both = list(zip(leaves, places, strict=True))
    on_host = mesh is None and device.platform == "cpu"  # whose memory is the device's

    def by_pieces(x: Any) -> bool:
        return isinstance(x, Stored) and (x.int8 or (x.nbytes >= LARGE and not on_host))

    pieced = _placed([each for each in both if by_pieces(each[0])])

    def on_device(x: Any, where: Place) -> Any:
        if by_pieces(x):
            return next(pieced)
        return rules.place(x.read() if isinstance(x, Stored) else x, where)

    return jax.tree.unflatten(structure, [on_device(*each) for each in both])


def _placed(leaves: list[tuple[Stored, Place]]) -> Iterator[Any]:
    reads, work = [], []
    for leaf, place in leaves:
        sharding = place.values if isinstance(place, Int8) else place
        # A piece of rows that devices divide would be moved between them.
        whole = not isinstance(sharding, NamedSharding) or not any(sharding.spec[:1])
        pieces = leaf.pieces(whole)
        there = _published(leaf.source, sharding)
        reads += [functools.partial(_read, piece, there) for piece in pieces]
        work.append((leaf, place, pieces))
    parts = _ahead(reads)
    for leaf, place, pieces in work:
        value, numbers = None, []
        inside = jax.tree.map(_layer_of, place) if leaf.source.stacked else place
        for piece in pieces:
            part, good = _turned(next(parts), leaf.source.way, leaf.dtype, leaf.int8, inside)
            if piece.place is None:
                value = part
            else:
                if value is None:
                    value = _zeros(leaf.abstract, place)
                value = _inserted(value, part, np.int32(piece.place.start), place)
            numbers.append(good)
            if len(numbers) > _AHEAD:  # what is read does not run ahead of what is done with it
                numbers[-1 - _AHEAD].block_until_ready()
        for piece, good in zip(pieces, numbers, strict=True):
            if not good:
                raise piece.no_number()
        yield value


def _ahead(reads: Sequence[Callable[[], jax.Array]]) -> Iterator[jax.Array]:
    """What each returns, in order; a few are called ahead."""
    with concurrent.futures.ThreadPoolExecutor(_AHEAD) as pool:
        coming: collections.deque = collections.deque()
        try:
            for read in reads:
                coming.append(pool.submit(read))
                if len(coming) > _AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for each in coming:
                each.cancel()


def _read(piece: Piece, sharding: Sharding) -> jax.Array:
    """A piece as it is published, of which each device has its part.

    A host reads the rows in which the parts of its devices lie, whole as they are in the file.
    """
    shape = piece.shape
    if not shape:
        return jax.device_put(piece.read(slice(None)), sharding)
    indices = sharding.addressable_devices_indices_map(shape).values()
    spans = [index[0].indices(shape[0])[:2] for index in indices]
    start, stop = min(span[0] for span in spans), max(span[1] for span in spans)
    rows = piece.read(slice(start, stop))

    def part(index: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = index[0].indices(shape[0])
        return rows[(slice(first - start, last - start), *index[1:])]

    return jax.make_array_from_callback(shape, sharding, part)


def _layer_of(sharding: Sharding) -> Sharding:
    """Where a layer of a stack lies."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


def _published(source: Source, sharding: Sharding) -> Sharding:
    """Where a piece lies as it is published, so that no device needs what another has of it."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    spec = list((_layer_of(sharding) if source.stacked else sharding).spec)
    if source.way.turn is not None:
        before, after = source.way.turn.split(" -> ")
        of = dict(zip(re.findall(r"\([^)]*\)|\S+", after), spec, strict=False))
        spec = [of.get(axis) for axis in before.split()]
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


@functools.partial(jax.jit, static_argnames=("abstract", "place"))
def _zeros(abstract, place):
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract)
    return jax.lax.with_sharding_constraint(zeros, place)


# Two programs: on a CPU, turning is four times as slow where it is fused with what comes after it.


@functools.partial(jax.jit, static_argnames=("way", "dtype", "int8", "place"))
def _turned(part, way, dtype, int8, place):
    """A piece as we have it, and whether all of it is numbers."""
    value = way.ours(part)
    value = quantize(value) if int8 else value.astype(dtype)
    return jax.lax.with_sharding_constraint(value, place), jnp.isfinite(
        jnp.sum(0 * part.astype(jnp.float32))
    )  # 0 times what is none is none


@functools.partial(jax.jit, static_argnames="place", donate_argnames="value")
def _inserted(value, part, start, place):
    def insert(value, part):
        part = part[None] if part.ndim < value.ndim else part
        return jax.lax.dynamic_update_slice_in_dim(value, part, start, 0)

    return jax.lax.with_sharding_constraint(jax.tree.map(insert, value, part), place)
