"""Convolutions over frames that devices share: values and gradients are those of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vjax.config import MeshConfig
from vjax.models import convolution
from vjax.parallel import mesh as meshes
from vjax.parallel import rules

LAYERS = {
    "same": lambda: convolution.CausalConv(3, 4, rngs=nnx.Rngs(0)),
    "half": lambda: convolution.Downsample(3, temporal=False, rngs=nnx.Rngs(0)),
    "twice": lambda: convolution.Upsample(3, 4, temporal=False, rngs=nnx.Rngs(0)),
}


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("mesh", "shape", "lies"),
    [
        # One device has one row, and those along `data` the same.
        (MeshConfig(data=2, context=4), (1, 2, 8, 6, 3), (1, 1, 8, 1)),
        (MeshConfig(data=4, context=2), (1, 2, 6, 4, 3), (1, 1, 1, 4)),
        (MeshConfig(data=2, context=2, tensor=2), (2, 2, 4, 2, 3), (2, 1, 4, 1)),
        (MeshConfig(data=2, context=4), (1, 2, 4, 6, 3), (1, 1, 4, 1)),
        (MeshConfig(data=2, fsdp=2, context=2), (1, 2, 2, 2, 3), (1, 1, 2, 1)),
    ],
    ids=str,
)
def test_layers_over_parts_of_frames_are_those_over_whole_ones(
    mesh, shape, lies, layer, platform, monkeypatch
):
    monkeypatch.setattr(convolution, "platform", lambda: platform)
    graph, params = nnx.split(LAYERS[layer]())
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

    def loss(params, x):
        y = rules.frames(nnx.merge(graph, params)(rules.frames(x))[0])
        return jnp.sum(jnp.sin(y)), y

    run = jax.value_and_grad(loss, (0, 1), has_aux=True)
    expected = jax.jit(run)(params, x)
    with meshes.use(meshes.make_mesh(mesh), mesh):
        found = jax.jit(run)(params, x)
        divided = jax.jit(rules.frames)(x).sharding.shard_shape(shape)
    assert tuple(np.array(shape[:4]) // divided[:4]) == lies
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
