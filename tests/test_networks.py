"""The networks of the Wan family against what diffusers' and transformers' made of the same."""

import pathlib

import numpy as np
import published
import pytest

RECORDED = pathlib.Path(__file__).parent / "data" / "networks.npz"


@pytest.mark.parametrize("name", published.CASES)
def test_equals_the_recorded_output(name):
    with np.load(RECORDED) as recorded:
        expected = recorded[name]
    found = published.some(published.ours(name))
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.mean(np.abs(found) < 1) > 0.2  # what a decoder clips shows little


def test_what_follows_a_text_is_zero():
    mask = published.CASES["umt5"].inputs["mask"]
    assert not published.ours("umt5")[~mask].any()
    assert published.ours("umt5")[mask].all()
