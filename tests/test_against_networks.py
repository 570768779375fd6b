"""The networks of the Wan family against diffusers' and transformers', with tiny random weights."""

import numpy as np
import published
import pytest

for package in ("torch", "diffusers", "transformers"):
    pytest.importorskip(package)


@pytest.mark.parametrize("name", published.CASES)
def test_equals_the_published_network(name):
    found, expected = published.ours(name), published.theirs(name)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
