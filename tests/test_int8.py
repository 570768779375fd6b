"""Weights in 8 bits: what is rounded and by how much, where it lies, and what it saves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_wan
from test_lora import kohya, matrices, written
from test_sample import run

from vjax import int8, models, recipe, stored, weights
from vjax import video as media
from vjax.arguments import parse
from vjax.config import DiTConfig, MeshConfig, TextConfig
from vjax.int8 import Int8, is_int8, quantize
from vjax.loras import Lora
from vjax.parallel import mesh as meshes
from vjax.parallel import rules
from vjax.stages import Stages

LAYOUT = MeshConfig(data=1, fsdp=2, context=2, tensor=2)


def quantized(params):
    return jax.tree.map_with_path(
        lambda path, x: quantize(x) if int8.in_blocks(path) else x, params
    )


def whole(kernel: Int8) -> np.ndarray:
    return np.asarray(kernel.values, np.float32) * np.asarray(kernel.scale)


def test_no_number_is_off_by_more_than_half_a_scale_of_its_column():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 64, 5)).astype(np.float32) * [0.01, 1, 100, 0, 1e-30]
    found = quantize(kernel)
    assert (found.values.dtype, found.scale.shape) == (np.int8, (3, 1, 5))
    most = np.abs(kernel).max(1, keepdims=True)
    assert (np.abs(whole(found) - kernel) <= 0.5001 * most / 127).all()
    assert (np.abs(found.values).max(1) == [127, 127, 127, 0, 127]).all()
    np.testing.assert_array_equal(quantize(whole(found)).values, found.values)


def test_half_of_bfloat16_at_published_sizes():
    wide = {"width": 5120, "depth": 40, "heads": 40, "ffn": 13_824}
    for config in (DiTConfig(), DiTConfig(**wide), TextConfig(ffn=10_240, width=4096)):
        half = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), models.abstract(config)
        )
        kept = jax.eval_shape(quantized, half)
        before, after = (
            sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(each)) for each in (half, kept)
        )
        assert after < 0.6 * before


@pytest.mark.parametrize(("kind", "layout"), [("published", LAYOUT), ("ours", None)])
def test_what_is_rounded_is_the_weight_with_its_lora(tmp_path, monkeypatch, kind, layout):
    monkeypatch.setattr(stored, "_PIECE", 64)  # a row or two
    name = str(tmp_path / "model")
    if kind == "ours":
        weights.save(name, tiny.bundle(), dtype="int8")
    else:
        tiny_wan.write(tmp_path / "model", "i2v", dtype="bfloat16")
    made = matrices(weights.read_config(name).dit)
    loras = [Lora(written(tmp_path / "a.safetensors", kohya(made)))]
    exact = weights.load(name, ("dit", "text"), loras).params
    stages = Stages(weights.open(name, loras=loras), "float32", layout, int8=True)
    held = {network: stages._use(network) for network in exact}
    wanted = quantized(exact)
    if layout is not None:
        wanted = rules.placed(wanted, stages.mesh)
    assert jax.tree.structure(held) == jax.tree.structure(wanted)
    for (path, leaf), there in zip(
        jax.tree.leaves_with_path(wanted), jax.tree.leaves(held), strict=True
    ):
        np.testing.assert_array_equal(there, leaf, err_msg=str(path))
        assert layout is None or there.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
        assert (there.dtype == jnp.int8) == (path[-1] == jax.tree_util.GetAttrKey("values"))
    if kind == "published":
        leaves = jax.tree.leaves_with_path(held, is_leaf=is_int8)
        attention = ["q", "k", "v", "o"]
        assert {".".join(key.key for key in path) for path, leaf in leaves if is_int8(leaf)} == {
            *(f"dit.blocks.self_attention.{x}.kernel" for x in attention),
            *(f"dit.blocks.cross_attention.{x}.kernel" for x in [*attention, "image_k", "image_v"]),
            *(f"dit.blocks.ffn.{x}.kernel" for x in ("up", "down")),
            *(f"text.layers.{x}.kernel" for x in [*attention, "gate", "up", "down"]),
        }


def test_a_network_in_8_bits_is_near_to_itself_however_it_is_shared():
    bundle, rng = tiny.bundle(), np.random.default_rng(0)
    z, text = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 3, 8, 8, 4), (2, 9, 16))
    )

    def velocity(bundle=bundle, dtype="float32", mesh=None, int8=False):
        stages = Stages(bundle, dtype, mesh, int8)
        return np.asarray(stages.velocity(z, jnp.array([0.3, 0.9]), text))

    def off(found, wanted):
        return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)

    def by_tensor(path, x):
        if not int8.in_blocks(path):
            return x
        scale = np.abs(x).max((-2, -1), keepdims=True) / 127
        return np.round(x / scale) * scale

    exact, rounded = velocity(), velocity(int8=True)
    assert 0.0005 < off(rounded, exact) < 0.01
    one_scale = {
        name: jax.tree.map_with_path(by_tensor, tree) if name != "vae" else tree
        for name, tree in bundle.params.items()
    }
    coarse = velocity(dataclasses.replace(bundle, params=one_scale))
    assert off(rounded, exact) < 0.9 * off(coarse, exact)
    assert off(velocity(mesh=LAYOUT, int8=True), rounded) < 1e-5
    assert off(velocity(dtype="bfloat16", int8=True), exact) < 0.02


def test_parameters_on_the_devices_are_rounded_there():
    bundle, mesh = tiny.bundle(), meshes.make_mesh(LAYOUT)
    placed = dataclasses.replace(bundle, params=rules.placed(bundle.params, mesh))
    stages = Stages(placed, "float32", LAYOUT, int8=True)
    assert stages.in_place
    kernel = stages.params["dit"]["blocks"]["ffn"]["up"]["kernel"]
    wanted = quantize(bundle.params["dit"]["blocks"]["ffn"]["up"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, kernel, wanted)


def test_a_file_says_so_and_is_made_again_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights.save("tiny", tiny.bundle(), dtype="float32")
    asked = ["--prompt", "a red circle", "--frames", 1, "--model", "tiny", "--steps", 1]
    assert run(capsys, *asked, "--int8", "--out", "a.png")[0] == 0
    assert media.read_metadata("a.png")["int8"] is True
    assert parse(["--like", "a.png"]).int8
    assert not parse(["--like", "a.png", "--no-int8"]).int8
    made = recipe.read("a.png")
    (said,) = recipe.differences(made, dataclasses.replace(made, int8=False), "a.png")
    assert said.startswith("a.png was made with weights in int8: the result may differ")
    assert run(capsys, *asked, "--dtype", "int8")[2][-1].endswith("or --int8.")
