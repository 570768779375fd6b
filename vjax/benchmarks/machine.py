"""What the machine reaches, and how long a call takes on it."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def seconds(call: Callable[[], object], runs: int) -> float:
    """Median seconds of a call, after one that compiles."""
    jax.block_until_ready(call())
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        jax.block_until_ready(call())
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def matmul(runs: int) -> dict[str, float]:
    """What the machine reaches in one large matrix product."""
    on_cpu = jax.default_backend() == "cpu"
    size, dtype = (2048, jnp.float32) if on_cpu else (8192, jnp.bfloat16)
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return {"matmul_gflops_per_second": 2 * size**3 / seconds(lambda: product(a), runs) / 1e9}
