"""Parameters straight from files onto devices: what is read whole, piece by piece."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_wan
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from vjax import stored, weights
from vjax.config import MeshConfig
from vjax.parallel import mesh as meshes
from vjax.parallel import rules
from vjax.stages import Stages
from vjax.weights import BundleError

MESHES = [None, MeshConfig(data=1, fsdp=2, tensor=2), MeshConfig(data=2, fsdp=2, context=2)]


def same(found, wanted) -> None:
    found, wanted = weights.flatten(found), weights.flatten(wanted)
    assert found.keys() == wanted.keys()
    for name, leaf in wanted.items():
        np.testing.assert_array_equal(np.asarray(found[name]), leaf, err_msg=name)


@pytest.fixture(autouse=True)
def by_pieces(monkeypatch):
    """As large parameters come onto accelerators."""
    monkeypatch.setattr(stored, "LARGE", 0)


@pytest.fixture(params=[2**28, 64], ids=["whole", "in rows"])
def piece(request, monkeypatch):
    monkeypatch.setattr(stored, "_PIECE", request.param)


def mesh_of(config: MeshConfig | None) -> jax.sharding.Mesh | None:
    if config is None:
        return None
    return meshes.make_mesh(config, jax.devices()[: config.data * config.fsdp * 2])


@pytest.mark.parametrize("config", MESHES, ids=["one", "fsdp and tensor", "context"])
@pytest.mark.parametrize("family", ["i2v", "vace"])
def test_published_weights_lie_as_the_table_says(tmp_path, family, config, piece):
    name, mesh = tiny_wan.write(tmp_path / "model", family), mesh_of(config)
    found = stored.put(weights.open(name).params, mesh)
    whole = weights.load(name).params
    same(found, whole)
    if mesh is not None:
        assert rules.lies_on(found, mesh)
        where = jax.tree.leaves(rules.shardings(whole, mesh))
        for x, there in zip(jax.tree.leaves(found), where, strict=True):
            assert x.sharding.is_equivalent_to(there, x.ndim)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("config", MESHES[:2], ids=["one", "fsdp and tensor"])
def test_bundles_do_too(tmp_path, dtype, config, piece):
    weights.save(tmp_path / "bundle", tiny.bundle(), dtype=dtype)
    name = str(tmp_path / "bundle")
    same(stored.put(weights.open(name).params, mesh_of(config)), weights.load(name).params)


def test_a_host_reads_the_rows_of_its_devices(tmp_path, monkeypatch):
    """All columns of them: those of another lie between them in the file."""
    params = weights.open(tiny_wan.write(tmp_path / "model", "t2v")).params
    piece, _ = params["dit"]["blocks"]["ffn"]["up"]["kernel"].pieces()
    whole, shapes, read = piece.read(slice(None)), [], stored.Piece.read
    sharding = NamedSharding(mesh_of(MESHES[1]), PartitionSpec("tensor", "fsdp"))
    places = sharding.addressable_devices_indices_map(whole.shape)
    ours = {device: index for device, index in places.items() if index[0] == slice(16, 32)}

    def noted(piece, within):
        value = read(piece, within)
        shapes.append(value.shape)
        return value

    def put_on_ours(shape, sharding, part):
        for index in ours.values():
            np.testing.assert_array_equal(part(index), whole[index])
        return jnp.asarray(whole)

    monkeypatch.setattr(stored.Piece, "read", noted)
    monkeypatch.setattr(NamedSharding, "addressable_devices_indices_map", lambda *_: ours)
    monkeypatch.setattr(jax, "make_array_from_callback", put_on_ours)
    stored._read(piece, sharding)
    assert len(ours) == 2
    assert shapes == [(16, 24)]


def test_types_are_as_asked_for(tmp_path):
    name = tiny_wan.write(tmp_path / "model", "t2v", dtype="bfloat16")
    params = weights.open(name).params["dit"]
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    found, whole = stored.put(half, None), weights.load(name).params["dit"]
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}
    same(jax.tree.map(lambda x: x.astype(jnp.float32), found), whole)
    assert {x.nbytes for x in jax.tree.leaves(half)} == {2 * x.size for x in jax.tree.leaves(whole)}


def test_strips_are_what_is_read_whole(tmp_path, monkeypatch):
    names = [tiny_wan.write(tmp_path / "model", "i2v", dtype="bfloat16"), str(tmp_path / "bundle")]
    weights.save(names[1], tiny.bundle(), dtype="int8")
    whole = [weights.load(name).params for name in names]
    monkeypatch.setattr(stored, "_STRIP", 300)
    monkeypatch.setattr(stored, "_ROWS", 3)
    for name, params in zip(names, whole, strict=True):
        same(weights.load(name).params, params)


def test_every_bfloat16_that_is_no_number_is_found():
    numbers = np.arange(2**16, dtype=np.uint16).view(jnp.bfloat16)
    edge = numbers[(numbers.view(np.uint16) & 0x7F00) == 0x7F00]
    assert [stored.sound(x[None]) for x in edge] == np.isfinite(edge.astype(np.float32)).tolist()
    assert stored.sound(numbers[np.isfinite(numbers.astype(np.float32))])


def test_what_is_no_number_is_named(tmp_path):
    name = tiny_wan.write(tmp_path / "model", "t2v")
    file = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for tensor in ("blocks.1.attn1.to_q.weight", "proj_out.bias"):
        broken = tensors[tensor].copy()
        broken.reshape(-1)[3] = np.nan if tensor == "proj_out.bias" else -np.inf
        save_file({**tensors, tensor: broken}, file)
        params = weights.open(name).params
        with pytest.raises(BundleError, match=rf"{tensor} holds NaN"):
            stored.put(params, None)
        with pytest.raises(BundleError, match=rf"{tensor} holds NaN"):
            weights.load(name)


def test_a_file_that_is_cut_after_it_was_checked_is_named(tmp_path):
    name = tiny_wan.write(tmp_path / "model", "t2v")
    params = weights.open(name).params
    file = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BundleError, match=r"safetensors ends within"):
        stored.put(params["dit"], None)


def test_published_weights_are_half_but_for_what_is_used_in_float32(tmp_path):
    name = tiny_wan.write(tmp_path / "model", "skyreels", dtype="float32")
    found = Stages(weights.open(name))
    assert found.dtype == jnp.bfloat16
    dit = weights.flatten(found.params["dit"])
    exact = {key for key, x in dit.items() if x.dtype == jnp.float32}
    assert {x.dtype for key, x in dit.items() if key not in exact} == {jnp.dtype("bfloat16")}
    assert exact == {
        key
        for key in dit
        if key.startswith("time_embed.") or any(word in key for word in ("norm", "modul", "rate_e"))
    }
    assert {x.dtype for x in jax.tree.leaves(found.params["vae"])} == {jnp.dtype("float32")}
    whole = Stages(weights.open(name), dtype="float32")
    assert {x.dtype for x in jax.tree.leaves(whole.params)} == {jnp.dtype("float32")}
