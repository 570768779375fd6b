"""How a run lies on its devices: one table for parameters, one for activations.

A mesh has up to four axes. Devices along `data` and `fsdp` see different clips; those along `fsdp`
also hold a share of the parameters each and gather them as they need them. Devices along `context`
share the tokens of a clip, those along `tensor` the heads and the hidden layers.

An axis of an array that a mesh axis does not divide stays whole along it; `undivided` says which.
Nothing here changes numbers by more than rounding.
"""

import functools
import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from vjax.int8 import is_int8

Axes = tuple[tuple[str, ...], ...]  # of each axis of an array the mesh axes that divide it

WHOLE: tuple[str, ...] = ()
CLIPS, FSDP, CONTEXT, TENSOR = ("data", "fsdp"), ("fsdp",), ("context",), ("tensor",)
PIXELS = (*CLIPS, *CONTEXT, *TENSOR)  # of them those that divide no clips

_STACKS = "(blocks|control_blocks|layers)"

# The first pattern that is found in the path of a parameter counts, also for its average and for
# the optimizer's moments.
PARAMETERS: tuple[tuple[str, Axes], ...] = (
    # Layers of the transformer and of the text encoder, stacked: [depth in out], [depth out].
    (rf"{_STACKS}/.*\b(image_)?(q|k|v|up|gate)/kernel$", (WHOLE, FSDP, TENSOR)),
    (rf"{_STACKS}/.*\b(o|down)/kernel$", (WHOLE, TENSOR, FSDP)),
    (rf"{_STACKS}/.*\b(image_)?(q|k|v|up)/bias$", (WHOLE, TENSOR)),
    (r"blocks/.*\b(q_norm|k_norm|image_k_norm)/scale$", (WHOLE, TENSOR)),
    (r"control_blocks/hint/kernel$", (WHOLE, FSDP)),
    # What lies around them: [in out].
    (r"(patch_embed|(text|time|image)_embed/.*|control_in|head)/kernel$", (FSDP,)),
    (r"(time_projection|rate_projection/.*)/kernel$", (FSDP,)),
    (r"text/embedding$", (TENSOR, FSDP)),  # [vocabulary width]
    (r"vae/.*/kernel$", (WHOLE, WHOLE, WHOLE, WHOLE, FSDP)),  # [time height width in out]
    # Vectors: norms, biases, modulation.
    (r"", ()),
)

ACTIVATIONS: dict[str, Axes] = {
    "clips": (CLIPS,),  # [B …] video, latents, texts and all else that is one a clip
    "rows": (CLIPS, WHOLE, PIXELS),  # [B T H W C] inside the VAE, see `frames`
    "columns": (CLIPS, WHOLE, WHOLE, PIXELS),
    "pixels": (CLIPS, WHOLE, PIXELS),  # [B 1 P 1 C] of frames, to others of which each attends
    "tokens": (CLIPS, WHOLE, CONTEXT),  # [B F P …] frames, positions in each
    "token heads": (CLIPS, WHOLE, CONTEXT, TENSOR),  # [B F P K D]
    "heads": (CLIPS, WHOLE, TENSOR),  # [B S K D] of a text, or of pixels
    "hidden": (CLIPS, WHOLE, CONTEXT, TENSOR),  # [B F P D] inside a feed-forward layer
    "embedded": (("data",), WHOLE, FSDP),  # [B S D] rows of a table that is divided by columns
}


def named(x: Array, name: str) -> Array:
    """`x`, laid out as an activation of that name; the same `x` where there is no mesh."""
    mesh = _mesh()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, _spec(ACTIVATIONS[name], x.shape, mesh))


def frames(x: Array) -> Array:
    """Features `[B T H W C]` inside the VAE, laid out by rows or by columns.

    Time stays whole: each latent needs what those before it left.
    """
    return x if _mesh() is None else named(x, sides(x.shape))


def sides(shape: tuple[int, ...]) -> str:
    """Whether features `[B T H W C]` lie by "rows" or by "columns".

    Which of them the devices divide rather is the same at every size of a network, since both are
    halved and doubled together.
    """
    devices = sharers(shape[0])
    odd = devices // (devices & -devices)
    rows, columns = ((side % odd == 0, side & -side) for side in shape[2:4])
    return "rows" if rows >= columns else "columns"


def sharers(clips: int) -> int:
    """How many devices share the pixels of each of so many clips."""
    mesh = jax.sharding.get_abstract_mesh()
    (used,) = _spec((CLIPS,), (clips,), mesh)
    return math.prod(mesh.shape.get(axis, 1) for axis in PIXELS if axis not in (used or ()))


def filled(x: Array, devices: int | None = None) -> Array:
    """`x` with zeros at the end of its positions `[B F P …]`, until so many devices divide them.

    By default those along `context`.
    """
    spare = -x.shape[2] % (devices or count("context"))
    return jnp.pad(x, [(0, spare if i == 2 else 0) for i in range(x.ndim)]) if spare else x


def divided() -> bool:
    """Whether what is compiled now will run on several devices."""
    return _mesh() is not None


def count(*axes: str) -> int:
    """Among how many devices these axes of the mesh in effect divide something."""
    mesh = _mesh()
    return 1 if mesh is None else math.prod(mesh.shape.get(axis, 1) for axis in axes)


def spec(name: str, shape: tuple[int, ...]) -> PartitionSpec:
    """How an activation lies on the mesh in effect, which there must be."""
    return _spec(ACTIVATIONS[name], shape, jax.sharding.get_abstract_mesh())


def pinned(tree: Any) -> Any:
    """Parameters, or a state made of such, laid out by the table; for results of `jax.jit`."""
    mesh = _mesh()
    if mesh is None:
        return tree

    def pin(path, leaf):
        return jax.lax.with_sharding_constraint(leaf, _spec(_rule(path), leaf.shape, mesh))

    return jax.tree.map_with_path(pin, tree)


def gathered(params: Any, network: str) -> Any:
    """The parameters of a network as it uses them: whole along `fsdp`, their gradients divided.

    Stacks of layers are left to `gathered_layer`, one layer at a time, and the text encoder's table
    stays where it is, since few of its rows are used.
    """

    def gather(path, leaf):
        keep = re.search(rf"/{_STACKS}/|/embedding$", f"{network}/{_name(path)}")
        return leaf if keep else _relaid(leaf, _rule(path, network))

    return params if _mesh() is None else jax.tree.map_with_path(gather, params)


def gathered_layer(layer: Any, stack: str, dtype: jax.typing.DTypeLike) -> Any:
    """The same for one layer of the stack of that name, sent as what it is used in."""

    def gather(path, leaf):
        rule = _rule(path, stack)[1:]
        if FSDP in rule and not is_int8(leaf):
            leaf = leaf.astype(dtype)
        return jax.tree.map(lambda x: _relaid(x, rule), leaf)

    return layer if _mesh() is None else jax.tree.map_with_path(gather, layer, is_leaf=is_int8)


def shardings(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Where the table puts parameters, or a state made of such."""

    def where(path, leaf):
        return NamedSharding(mesh, _spec(_rule(path), np.shape(leaf), mesh))

    return jax.tree.map_with_path(where, tree)


def laid_out(tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """Shapes of parameters, or of a state made of such, where the table puts them."""

    def put(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(put, tree, shardings(tree, mesh))


def held(tree: Any) -> int:
    """Bytes of what is laid out that lie on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def placed(tree: Any, mesh: Mesh) -> Any:
    """Parameters, or a state made of such, put where the table says."""

    return jax.tree.map(place, tree, shardings(tree, mesh))


def place(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """One array, put where it belongs."""
    if isinstance(x, jax.Array) or sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    # Each process copies what its devices hold. `device_put` would first send all of it to all,
    # to see that it is the same.
    return jax.make_array_from_callback(np.shape(x), sharding, lambda index: x[index])


def lies_on(tree: Any, mesh: Mesh) -> bool:
    """Whether all of it lies on the devices of a mesh."""
    devices = set(mesh.devices.flat)
    return all(
        isinstance(x, jax.Array) and x.sharding.device_set == devices for x in jax.tree.leaves(tree)
    )


def undivided(params: Any, mesh: Mesh) -> list[str]:
    """Says of every parameter that the table would divide further what keeps it from that."""
    said = []
    for path, leaf in jax.tree.leaves_with_path(params):
        shape, rule = jnp.shape(leaf), _rule(path)
        for size, wanted, got in zip(shape, rule, _spec(rule, shape, mesh), strict=False):
            left = [a for a in wanted if mesh.shape.get(a, 1) > 1 and a not in (got or ())]
            for axis in left:
                said.append(
                    f"{_name(path)} {list(shape)} is whole along {axis}: {size} is no multiple of "
                    f"{math.prod(mesh.shape[a] for a in (*(got or ()), axis))}"
                )
    return said


def _relaid(x: Array, rule: Axes) -> Array:
    whole = tuple(tuple(axis for axis in wanted if axis != "fsdp") for wanted in rule)
    mesh = jax.sharding.get_abstract_mesh()
    return _constrain(x, _spec(whole, x.shape, mesh), _spec(rule, x.shape, mesh))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _constrain(x: Array, used: PartitionSpec, kept: PartitionSpec) -> Array:
    return jax.lax.with_sharding_constraint(x, used)


_constrain.defvjp(
    lambda x, used, kept: (_constrain(x, used, kept), None),
    lambda used, kept, _, gradient: (jax.lax.with_sharding_constraint(gradient, kept),),
)


def _mesh() -> AbstractMesh | None:
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def _name(path) -> str:
    """The keys on the way to a parameter, without those of the optimizer or of flax around them."""
    return "/".join(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def _rule(path, stack: str = "") -> Axes:
    name = f"{stack}/{_name(path)}"
    return next(axes for pattern, axes in PARAMETERS if re.search(pattern, name))


def _spec(rule: Axes, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """Of the mesh axes of a rule those that are left by what stands before, and divide the most."""
    left = [axis for axis, size in mesh.shape.items() if size > 1]
    parts: list[tuple[str, ...] | None] = []

    def count(axes):
        return math.prod(mesh.shape[axis] for axis in axes)

    for size, wanted in zip(shape, rule, strict=False):
        usable = [axis for axis in wanted if axis in left]
        choices = (c for n in range(len(usable) + 1) for c in itertools.combinations(usable, n))
        kept = max((axes for axes in choices if size % count(axes) == 0), key=count)
        left = [axis for axis in left if axis not in kept]
        parts.append(kept or None)
    return PartitionSpec(*parts)
