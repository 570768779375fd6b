"""The networks of the Wan family: as they were recorded, and the same on eight devices."""

import pathlib

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from vjax.config import MeshConfig
from vjax.parallel import mesh as meshes
from vjax.parallel import rules

RECORDED = pathlib.Path(__file__).parent / "data" / "networks.npz"
SHARED = MeshConfig(fsdp=2, tensor=2, context=2, attention="gather")


def close(found, expected, tolerance):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", networks.CASES)
def test_equals_the_recorded_output(name):
    with np.load(RECORDED) as recorded:
        expected = recorded[name]
    found = networks.some(networks.ours(name))
    close(found, expected, networks.CASES[name].tolerance)
    assert np.mean(np.abs(found) < 1) > 0.2  # what a decoder clips shows little


def test_what_follows_a_text_is_zero():
    mask = networks.CASES["umt5"].inputs["mask"]
    assert not networks.ours("umt5")[~mask].any()
    assert networks.ours("umt5")[mask].all()


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("flf2v", SHARED),
        ("vace", SHARED),
        ("clip", SHARED),
        ("skyreels df, in blocks", MeshConfig(context=4, attention="ring")),
    ],
)
def test_eight_devices_give_what_one_does(name, config):
    case, mesh = networks.CASES[name], meshes.make_mesh(config)
    params = {"image" if name == "clip" else "dit": networks.params(case.config)}
    inputs = {key: np.concatenate([x] * 2) for key, x in case.inputs.items()}

    def loss(params, inputs):
        (params,) = params.values()
        out = networks.call(case.config, case.method, params, inputs)
        return jnp.sum(jnp.sin(out)), out

    def run(*given):
        if name == "clip":  # nobody trains it
            return {}, jax.jit(loss)(*given)[1]
        return jax.device_get(jax.jit(jax.grad(loss, has_aux=True))(*given))

    wanted, expected = run(params, inputs)
    placed, clips = rules.placed(params, mesh), meshes.place_batch(mesh, inputs)
    assert not all(x.sharding.is_fully_replicated for x in jax.tree.leaves((placed, clips)))
    with meshes.use(mesh, config):
        found, out = run(placed, clips)
    close(out, expected, 1e-5)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        close(a, b, 2e-5)
