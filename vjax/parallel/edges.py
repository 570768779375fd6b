"""Convolutions over frames that devices share: each is given the edges of its neighbours' parts.

XLA's partitioner would do the same, but wrongly where several devices hold the same part of a frame
(seen with jax 0.10 and 0.12): it adds their gradients of a kernel up as if each were another part,
and so the products of a kernel that is larger than the frame.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from vjax.parallel import rules

Pad = tuple[tuple[int, int], tuple[int, int]]  # of rows and of columns: at the near end, the far


def over_parts(
    run: Callable[[Array, Array, Pad], Array],
    x: Float[Array, "B T H W C"],
    kernel: Array,
    pad: Pad,
    stride: int = 1,
) -> Float[Array, "B _T _H _W O"]:
    """`run(x, kernel, pad)`, a convolution over frames with zeros around them, of all devices.

    On a mesh each runs it on its part, which has the pixels of its neighbours around it instead of
    zeros wherever `pad` is less.
    """
    if not rules.divided():
        return run(x, kernel, pad)
    shape = (*x.shape[:2], *(side // stride for side in x.shape[2:4]), x.shape[4])
    clips, _, *sides = (*rules.spec(rules.sides(shape), shape), None, None)[:4]
    spec = PartitionSpec(clips, None, *sides)

    def part(x, kernel):
        zeros = []
        for axis, (devices, (near, far)) in enumerate(zip(sides, pad, strict=True), 2):
            zeros.append((0, 0) if devices else (near, far))
            x = _with_edges(x, axis, devices, near, far) if devices else x
        return run(x, kernel, tuple(zeros))

    lies = (spec, PartitionSpec())
    return jax.shard_map(part, in_specs=lies, out_specs=spec, check_vma=False)(x, kernel)


def _with_edges(x: Array, axis: int, devices: str | tuple[str, ...], near: int, far: int) -> Array:
    """`x` between what lies next to it on the devices before and after; zeros at the ends."""
    last = lax.axis_size(devices) - 1
    parts = [x]
    if near:
        edge = lax.slice_in_dim(x, x.shape[axis] - near, None, axis=axis)
        parts.insert(0, lax.ppermute(edge, devices, [(i, i + 1) for i in range(last)]))
    if far:
        edge = lax.slice_in_dim(x, 0, far, axis=axis)
        parts.append(lax.ppermute(edge, devices, [(i + 1, i) for i in range(last)]))
    return jnp.concatenate(parts, axis=axis)
