"""Attention on TPUs by the splash kernel that comes with JAX: scores stay beside the cores."""

import concurrent.futures
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LANES = 128  # tiles are multiples of it
# Longest tiles that fit the fast memory of every chip, of rows up to so many bytes, and of wider.
LONGEST, NARROW, LONGEST_WIDE = 1024, 512, 512


def attention(
    q: Float[Array, "B N K D"],
    k: Float[Array, "B S K D"],
    v: Float[Array, "B S K D"],
    *,
    interpret: bool = False,
) -> Float[Array, "B N K D"]:
    """Softmax attention, unmasked, scaled by `1 / sqrt(D)`. Memory is linear in N and S.

    Args:
        interpret: emulate the kernel, slowly, on any device.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    queries, keys, heads = q.shape[1], k.shape[1], q.shape[2]
    longest = LONGEST if q.shape[3] * q.dtype.itemsize <= NARROW else LONGEST_WIDE
    query_tile, key_tile = _tile(queries, longest), _tile(keys, longest)
    q = q * jnp.asarray(q.shape[3] ** -0.5, q.dtype)
    q, k, v = (
        jnp.pad(jnp.swapaxes(x, 1, 2), [(0, 0), (0, 0), (0, -x.shape[1] % tile), (0, 0)])
        for x, tile in ((q, query_tile), (k, key_tile), (v, key_tile))
    )
    kernel = _kernel(q.shape[2], k.shape[2], heads, query_tile, key_tile, interpret)
    # Queries attend to keys of their own segment: none to padding.
    segments = None
    if k.shape[2] > keys:
        padding = (jnp.arange(k.shape[2]) >= keys).astype(jnp.int32)
        segments = SegmentIds(jnp.zeros(q.shape[2], jnp.int32), padding)
    out = jax.vmap(kernel, in_axes=(0, 0, 0, None))(q, k, v, segments)
    return jnp.swapaxes(out, 1, 2)[:, :queries]


def _tile(length: int, longest: int) -> int:
    """The tile with the least padding among as few tiles as possible."""
    return LANES * math.ceil(length / math.ceil(length / longest) / LANES)


@functools.lru_cache(maxsize=64)
def _kernel(queries: int, keys: int, heads: int, query_tile: int, key_tile: int, interpret: bool):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    sizes = splash.BlockSizes(
        block_q=query_tile,
        block_kv=key_tile,
        block_kv_compute=key_tile,
        block_q_dkv=query_tile,
        block_kv_dkv=key_tile,
        block_kv_dkv_compute=key_tile,
        block_q_dq=query_tile,
        block_kv_dq=key_tile,
    )
    mask = splash.MultiHeadMask([splash.FullMask((queries, keys))] * heads)

    def build():
        try:
            device = jax.local_devices(backend="cpu")[0]
        except RuntimeError:  # JAX_PLATFORMS names others only
            device = jax.local_devices()[0]
        with jax.default_device(device):
            kernel = splash.make_splash_mha(
                mask=mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
            )
        return jax.tree.map(np.asarray, kernel)

    # Its tables are constants. A thread of its own knows nothing of what is being traced here, nor
    # of the mesh that it is traced for.
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(build).result()
