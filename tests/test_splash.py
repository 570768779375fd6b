"""The kernel of attention for TPUs, emulated, against attention as it is defined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vjax.models import splash


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
