"""Frames that are read when they are asked for, so that memory does not grow with their number."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

IN_MEMORY = 1 << 22  # bytes of a spool that need no file
BLOCK = 16  # frames that are looked at together


class Reel:
    """Frames [T …] that are read or made when they are asked for, and again each time.

    `reel[3]`, `reel[2:7]` and `reel[[4, 1]]` are arrays, and so is `np.asarray(reel)`, all of them.

    Args:
        shape: with the number of frames in front.
        read: the numbers of some frames to an array of these.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any,
        read: Callable[[np.ndarray], Shaped[np.ndarray, "t ..."]],
    ):
        self.shape, self.dtype, self._read = shape, np.dtype(dtype), read

    @classmethod
    def of(cls, frames: "Shaped[np.ndarray, 'T ...'] | Reel") -> "Reel":
        """Frames that are there."""
        if isinstance(frames, Reel):
            return frames
        return cls(frames.shape, frames.dtype, frames.__getitem__)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if index is ... or isinstance(index, tuple):
            return self[:][index]
        numbers = np.arange(len(self))[index]
        return self._read(numbers) if numbers.ndim else self._read(numbers[None])[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def blocks(self) -> Iterator[np.ndarray]:
        """All frames, a few at a time."""
        for start in range(0, len(self), BLOCK):
            yield self[start : start + BLOCK]

    def taken(self, index: slice | Sequence[int] | np.ndarray) -> "Reel":
        """The frames of these numbers, in this order."""
        numbers = np.arange(len(self))[index]
        shape = (len(numbers), *self.shape[1:])
        return Reel(shape, self.dtype, lambda places: self._read(numbers[places]))

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> "Reel":
        """What becomes of its frames [t …], each on its own."""
        first = change(self[:1])
        shape = (len(self), *first.shape[1:])
        return Reel(shape, first.dtype, lambda numbers: change(self._read(numbers)))


def mixed(first: Reel, second: Reel, share: Float[np.ndarray, " T"]) -> UInt8[Reel, "T H W 3"]:
    """Frame by frame a mix of two, in which the second has so much of a share, from 0 to 1."""
    shares = np.asarray(share, np.float32)[:, None, None, None]

    def read(numbers: np.ndarray) -> np.ndarray:
        of_second = shares[numbers]
        mix = (1 - of_second) * first[numbers] + of_second * second[numbers]
        return np.rint(mix).astype(np.uint8)

    return Reel((len(share), *first.shape[1:]), np.uint8, read)


class Spool:
    """Frames of one shape that are laid aside one after another: in a file, where they are many.

    It has no name and is gone with what is made of it.

    Raises:
        OSError: of `append`, where the disk is full.
    """

    def __init__(self):
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
        self.count = 0
        self._frame = np.zeros(0, np.uint8)  # the shape of each

    def append(self, frame: np.ndarray) -> None:
        self._frame = np.empty_like(frame)
        self._file.write(np.ascontiguousarray(frame).data)
        self.count += 1

    def reel(self) -> Reel:
        """All that was laid aside."""
        like = self._frame

        def read(numbers: np.ndarray) -> np.ndarray:
            found = np.empty((len(numbers), *like.shape), like.dtype)
            for frame, number in zip(found, numbers.tolist(), strict=True):
                self._file.seek(number * like.nbytes)
                self._file.readinto(frame.data)
            return found

        return Reel((self.count, *like.shape), like.dtype, read)
