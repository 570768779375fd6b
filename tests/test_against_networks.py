"""The networks of the Wan family against diffusers' and transformers', with tiny random weights."""

import networks
import numpy as np
import pytest

for package in ("torch", "diffusers", "transformers"):
    pytest.importorskip(package)


@pytest.mark.parametrize("name", networks.CASES)
def test_equals_the_published_network(name):
    found, expected = networks.ours(name), networks.theirs(name)
    assert found.shape == expected.shape
    tolerance = networks.CASES[name].tolerance
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
