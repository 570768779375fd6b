"""The device mesh, and arrays placed on it."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vjax.config import ConfigError


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices along one axis, `data`, over which batches are split."""
    return Mesh(np.array(devices or jax.devices()), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def place_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This host's share of a batch as its part of global arrays.

    Raises:
        ConfigError: the batch cannot be divided evenly over the devices.
    """
    count = len(next(iter(batch.values()))) * jax.process_count()
    if count % mesh.size:
        raise ConfigError(
            f"A batch of {count} clips cannot be divided over {mesh.size} devices: make the batch "
            f"of every bucket a multiple of {mesh.size}."
        )
    sharding = split_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}
