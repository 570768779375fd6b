"""The kernel of attention for TPUs, emulated, against attention as it is defined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from vjax.models import splash
from vjax.parallel import slices


@pytest.mark.parametrize(
    ("queries", "keys", "width"), [(130, 130, 64), (70, 300, 128), (1100, 40, 64)]
)
def test_values_and_gradients_are_those_of_attention(queries, keys, width):
    """Also where lengths are no multiples of a tile: padding is neither read nor returned."""
    random = np.random.default_rng(0)
    q, k, v, weight = (
        jnp.asarray(random.normal(size=(2, length, 2, width)), jnp.float32)
        for length in (queries, keys, keys, queries)
    )

    def both(attend):
        value, back = jax.vjp(attend, q, k, v)
        return value, *back(weight)

    for found, expected in zip(
        both(lambda *x: splash.attention(*x, interpret=True)),
        both(jax.nn.dot_product_attention),
        strict=True,
    ):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_the_kernel_needs_no_backend_of_cpus(monkeypatch):
    """As with JAX_PLATFORMS=tpu."""
    devices = jax.local_devices()

    def local_devices(backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend: 'cpu' requested")
        return devices

    monkeypatch.setattr(jax, "local_devices", local_devices)
    splash._kernel.cache_clear()
    x = jnp.ones((1, 8, 1, 64))
    assert splash.attention(x, x, x, interpret=True).shape == x.shape


@pytest.mark.parametrize(("width", "dtype"), [(384, jnp.float32), (128, jnp.bfloat16)])
def test_the_kernel_fits_the_fast_memory_of_a_small_chip(width, dtype):
    """Those of the VAE are wide and float32."""
    pytest.importorskip("libtpu", reason="the TPU's compiler is not here")
    (device,) = slices.devices("v5e:1x1")
    x = jax.ShapeDtypeStruct((1, 2048, 1, width), dtype, sharding=SingleDeviceSharding(device))
    with jax.default_device(device):
        compiled = jax.jit(splash.attention).lower(x, x, x).compile()
    assert "tpu_custom_call" in compiled.as_text()
