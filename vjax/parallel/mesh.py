"""The device mesh, and clips placed on it."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
import psutil
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vjax.config import ConfigError, MeshConfig, ModelConfig
from vjax.parallel import context, rules

AXES = ("data", "fsdp", "context", "tensor")
_BLOCK = 2**26  # bytes of a divided array that come to the host at once
TOKENS_EACH = 512  # of a video; below so many, devices wait for longer than they compute


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices, near ones along the last axes; slices lie along `data`.

    Raises:
        ConfigError: the sizes do not multiply to the number of devices.
    """
    devices = list(devices or jax.devices())
    shared = config.fsdp * config.context * config.tensor
    data = config.data or len(devices) // shared
    if data * shared != len(devices):
        sizes = " x ".join(f"mesh.{name}={getattr(config, name)}" for name in AXES[1:])
        problem = (
            f"{sizes} is {shared}, which does not divide the {len(devices)} devices"
            if len(devices) % shared
            else f"mesh.data={data} x {sizes} is {data * shared}, and there are {len(devices)} "
            f"devices: leave mesh.data out, which makes it {len(devices) // shared}"
        )
        raise ConfigError(
            f"{problem}; the product of the other sizes can be {_either(divisors(len(devices)))}."
        )
    sizes = (data, config.fsdp, config.context, config.tensor)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(grid, AXES)
    if data % slices:
        raise ConfigError(
            f"The devices are in {slices} slices, which mesh.data={data} must be a multiple of: "
            "only data goes over the network between slices."
        )
    inside = (data // slices, *sizes[1:])
    grid = mesh_utils.create_hybrid_device_mesh(
        inside, (slices, 1, 1, 1), devices, allow_split_physical_axes=True
    )
    return Mesh(grid, AXES)


def check(config: MeshConfig, mesh: Mesh, model: ModelConfig) -> None:
    """Raises ConfigError where the devices cannot share the heads of a network as asked."""
    tensor, shared = mesh.shape["tensor"], mesh.shape["context"]
    for name in ("dit", "text"):
        network = getattr(model, name)
        if network is not None and network.heads % tensor:
            fitting = [n for n in divisors(network.heads) if mesh.size % n == 0]
            raise ConfigError(
                f"mesh.tensor={tensor} devices cannot share the {network.heads} heads of "
                f"model.{name}: mesh.tensor can be {_either(fitting)}."
            )
    if config.attention == "ulysses" and model.dit is not None:
        heads = model.dit.heads // tensor
        if heads % shared:
            fitting = [n for n in divisors(heads) if mesh.size % (n * tensor) == 0]
            raise ConfigError(
                f"mesh.attention=ulysses exchanges {heads} heads (model.dit.heads / mesh.tensor) "
                f"among mesh.context={shared} devices, which do not divide them: mesh.context can "
                f"be {_either(fitting)}, or mesh.attention gather or ring."
            )


def check_samples(mesh: Mesh, count: int) -> None:
    """Raises ConfigError where the devices cannot share what a network samples at once."""
    if count % shares(mesh):
        fitting = [n for n in divisors(count) if mesh.size % n == 0]
        raise ConfigError(
            f"{shares(mesh)} devices (mesh.data x mesh.fsdp) cannot share {count} samples, where "
            f"guidance makes two of each: they can be {_either(fitting)}, and the others share "
            "tokens (mesh.context) or heads (mesh.tensor)."
        )


def undivided_frames(mesh: Mesh, height: int, width: int) -> str:
    """Says where not all devices can share one latent, of height and width; else nothing."""
    if not height % mesh.size or not width % mesh.size:
        return ""
    return (
        f"{mesh.size} devices divide neither the {height} rows nor the {width} columns of a "
        "latent, so several of them decode the same in the smallest stages of the VAE."
    )


def for_one_video(
    model: ModelConfig, devices: int, guided: bool, resident: float, memory: float
) -> MeshConfig:
    """How devices share one video: guidance's two branches, then the tokens.

    Where the networks would fill more than half of a device, as many devices as that takes divide
    them: those of the branches, then those that divide the heads.

    Args:
        resident: bytes of the networks that lie there while it is sampled.
        memory: bytes of a device.
    """
    branches = 2 if guided and devices % 2 == 0 else 1
    divided = branches if 2 * resident > memory else 1
    heads = math.gcd(*(network.heads for network in (model.dit, model.text) if network))
    tensor = 1
    while 2 * resident > memory * divided * tensor and not (
        heads % (2 * tensor) or devices // branches % (2 * tensor)
    ):
        tensor *= 2
    context = devices // branches // tensor
    return MeshConfig(branches // divided, divided, context, tensor)


def describe(mesh: Mesh) -> str:
    """The number of devices and how they are divided, for people."""
    sizes = [f"{name} {size}" for name, size in mesh.shape.items() if size > 1]
    count = f"{mesh.size} device{'s' if mesh.size > 1 else ''}"
    return f"{count} ({' x '.join(sizes)})" if len(sizes) > 1 else count


@contextlib.contextmanager
def use(mesh: Mesh, config: MeshConfig) -> Iterator[None]:
    """What is compiled inside is laid out over the mesh, as `vjax.parallel.rules` says."""
    with jax.sharding.set_mesh(mesh), context.way(config.attention):
        yield


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over the devices that see different clips."""
    axes = tuple(name for name in rules.CLIPS if name in mesh.axis_names)
    return NamedSharding(mesh, PartitionSpec(axes))


def shares(mesh: Mesh) -> int:
    """Into how many parts a batch is divided."""
    return math.prod(mesh.shape.get(name, 1) for name in rules.CLIPS)


def own_shares(mesh: Mesh) -> list[int]:
    """The parts of every batch that the devices of this process hold, in order."""
    count = shares(mesh)
    found = split_batch(mesh).addressable_devices_indices_map((count,)).values()
    return sorted({i for (index,) in found for i in range(count)[index]})


def own_clips(mesh: Mesh, batch: int) -> list[int]:
    """Which clips of a batch this process prepares.

    Raises:
        ConfigError: the batch cannot be divided evenly over the devices.
    """
    count = shares(mesh)
    if batch % count:
        raise ConfigError(
            f"A batch of {batch} clips cannot be divided over {count} devices (mesh.data x "
            f"mesh.fsdp): make the batch of every bucket a multiple of {count}."
        )
    each = batch // count
    return [clip for share in own_shares(mesh) for clip in range(share * each, (share + 1) * each)]


def place(mesh: Mesh, value: np.ndarray) -> jax.Array:
    """What this process prepared, its shares one after another, as its part of a global array."""
    own = own_shares(mesh)
    each = len(value) // len(own)
    shape = (each * shares(mesh), *value.shape[1:])

    def part(index: tuple[slice, ...]) -> np.ndarray:
        first = own.index((index[0].start or 0) // each) * each
        return value[first : first + each]

    return jax.make_array_from_callback(shape, split_batch(mesh), part)


def place_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's clips of a batch (`own_clips`) as its part of global arrays."""
    return {name: place(mesh, value) for name, value in batch.items()}


def replicated(mesh: Mesh, tree):
    """What every process has alike, as global arrays that lie whole on all devices."""
    whole = NamedSharding(mesh, PartitionSpec())

    def put(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, whole, lambda index: x[index])

    return jax.tree.map(put, tree)


def memory_of_device() -> float:
    """In bytes; all that the machine has where a device does not say."""
    said = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return said or psutil.virtual_memory().total


def crowded(held: float, memory: float) -> bool:
    """Whether so many bytes of parameters leave too little of a device's memory for the rest."""
    return held > 2 / 3 * memory


def turns(held: Mapping[str, float], memory: float) -> dict[str, tuple[str, ...]]:
    """Which networks are put on a device when they are used, and what makes room for each then.

    What does not fit at once takes turns: the text encoder, which can be the largest, with the
    DiT, and two experts with each other.

    Args:
        held: bytes of each network on a device.
        memory: bytes of the device.
    """
    dits: tuple[str, ...] = tuple(name for name in ("dit", "low") if name in held)
    found: dict[str, tuple[str, ...]] = {"text": ()}
    everything = sum(held.values())
    if crowded(everything, memory):
        found = {"text": dits} | dict.fromkeys(dits, ())
    if crowded(everything - held["text"], memory):
        found |= dict.fromkeys(dits, dits)
    return found


def readable(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    """A global array as every process can read the whole of it; all processes call it."""
    if isinstance(x, np.ndarray) or x.is_fully_addressable or x.is_fully_replicated:
        return x
    return _gathering(x.sharding.mesh)(x)


@functools.cache
def _gathering(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))


def fetch(tree):
    """The whole of arrays on the host of process 0, wherever their parts are; None on the others.

    All processes call it. What lies on several hosts comes in blocks, so that no device needs room
    for a whole stack of layers.
    """
    first = jax.process_index() == 0

    def whole(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return jax.device_get(x) if first else None
        return _in_blocks(x, first)

    return jax.tree.map(whole, tree)


def _in_blocks(x: jax.Array, wanted: bool) -> np.ndarray | None:
    """The whole of an array, cut where it is divided least: a cut there gathers what is divided."""
    parts = [n // own for n, own in zip(x.shape, x.sharding.shard_shape(x.shape), strict=True)]
    axis = parts.index(min(parts))
    length = x.shape[axis]
    size = min(max(1, _BLOCK * length // x.nbytes), length)
    cut = _cut(axis, size, NamedSharding(x.sharding.mesh, PartitionSpec()))
    value = np.empty(x.shape, x.dtype) if wanted else None
    for start in range(0, length, size):
        start = min(start, length - size)  # all are of one size, and so of one program
        part = jax.block_until_ready(cut(x, start))
        if value is not None:
            value[(slice(None),) * axis + (slice(start, start + size),)] = part.addressable_data(0)
    return value


@functools.cache
def _cut(axis: int, size: int, everywhere: NamedSharding):
    """A program that is compiled once for arrays of one shape."""
    return jax.jit(
        lambda x, start: jax.lax.dynamic_slice_in_dim(x, start, size, axis),
        out_shardings=everywhere,
    )


def divisors(number: int) -> list[int]:
    """All of them, from 1 to the number itself."""
    return [n for n in range(1, number + 1) if number % n == 0]


def _either(values: list[int]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last
