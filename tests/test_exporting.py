"""Export: a model in diffusers' layout has the names, types and bytes that it was read from."""

import json
import pathlib

import numpy as np
import pytest
import tiny
import tiny_lora
import tiny_wan
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from vjax import export, loras, weights
from vjax.convert import exporting
from vjax.tensors import BundleError


def contents(directory: pathlib.Path) -> dict[str, object]:
    """All that lies in a directory: of files of tensors these and what is said of them."""
    found: dict[str, object] = {}
    for file in sorted(directory.rglob("*")):
        if file.suffix == ".safetensors":
            with safe_open(file, framework="numpy") as opened:
                found[f"{file.relative_to(directory)}"] = opened.metadata()
            for name, x in load_file(file).items():
                found[f"{file.relative_to(directory)} {name}"] = (x.dtype, x.shape, x.tobytes())
        elif file.is_file():
            found[str(file.relative_to(directory))] = file.read_bytes()
    return found


def divided(folder: pathlib.Path) -> None:
    """Divides a network into two shards, of which one has a tensor that nothing needs."""
    file = folder / "diffusion_pytorch_model.safetensors"
    found = load_file(file) | {"blocks.0.attn2.norm_added_q.weight": np.arange(3.0)}
    file.unlink()
    listed = {}
    for shard, start in (("a-1.safetensors", 0), ("a-2.safetensors", 1)):
        part = {name: found[name] for name in sorted(found)[start::2]}
        listed |= dict.fromkeys(part, shard)
        save_file(part, folder / shard, {"format": "pt"})
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": listed}))


@pytest.mark.parametrize(
    ("family", "dtype"),
    [("vace", "bfloat16"), ("skyreels", "float32"), ("flf2v", "bfloat16"), ("a14b", "float32")],
)
def test_what_is_read_and_exported_has_the_same_bytes(tmp_path, family, dtype):
    name = pathlib.Path(tiny_wan.write(tmp_path / family, family, dtype))
    divided(name / "transformer")
    (name / ".cache").mkdir()
    exporting.export(str(name), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(name)
    assert not (tmp_path / "out" / ".cache").exists()


def test_a_bundle_is_exported_as_the_model_that_it_is_from(tmp_path):
    name = tiny_wan.write(tmp_path / "flf2v", "flf2v")
    loaded = weights.load(name)
    weights.save(tmp_path / "bundle", loaded, "float32")
    assert export.main([str(tmp_path / "bundle"), "--base", name, "--out", f"{tmp_path}/a/b"]) == 0
    assert contents(tmp_path / "a" / "b") == contents(pathlib.Path(name))


def test_a_lora_is_exported_within_its_model(tmp_path):
    name = tiny_wan.write(tmp_path / "t2v", "t2v")
    made = tiny_lora.matrices(weights.read_config(name).dit, tiny_lora.LAYERS)
    file = tiny_lora.written(
        tmp_path / "lora.safetensors",
        tiny_lora.styled(made, "transformer.{diffusers}", tiny_lora.LAYERS),
    )
    (tmp_path / "out").mkdir()
    command = [name, "--lora", f"{file}:0.5", "--out", str(tmp_path / "out")]
    assert export.main(command) == 0
    wanted = weights.flatten(weights.load(name, loras=loras.of(f"{file}:0.5")).params)
    found = weights.flatten(weights.load(str(tmp_path / "out")).params)
    for key, x in wanted.items():
        np.testing.assert_array_equal(found[key], x, err_msg=key)
    before = weights.flatten(weights.load(name).params)
    assert any((x != before[key]).any() for key, x in found.items())


def test_what_cannot_be_exported_is_said_and_leaves_nothing(tmp_path, capsys):
    name = tiny_wan.write(tmp_path / "t2v", "t2v")
    weights.save(tmp_path / "own", tiny.bundle())
    there = tmp_path / "there"
    there.mkdir()
    (there / "mine.txt").write_text("mine")
    half = pathlib.Path(tiny_wan.write(tmp_path / "half", "t2v"))
    (half / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    before = sorted(tmp_path.rglob("*"))
    for command, said in (
        ([name, "--out", str(there)], "is there already"),
        ([str(tmp_path / "own"), "--out", str(tmp_path / "out")], "--base"),
        ([str(tmp_path / "own"), "--base", name, "--out", str(tmp_path / "out")], "its dit"),
        ([str(half), "--out", str(tmp_path / "out")], "vae"),
        ([str(tmp_path / "absent"), "--out", str(tmp_path / "out")], "Unknown model"),
    ):
        assert export.main(command) == 1
        error = capsys.readouterr().err.strip()
        assert said in error
        assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_that_become_infinite_are_not_exported(tmp_path):
    name = tiny_wan.write(tmp_path / "t2v", "t2v", "float16")
    file = str(tmp_path / "lora.safetensors")
    layer, many = "transformer.blocks.0.attn1.to_q", np.float32(1e3)
    shapes = {"lora_A": (1, tiny_wan.WIDTH), "lora_B": (tiny_wan.WIDTH, 1)}
    save_file({f"{layer}.{k}.weight": np.full(shape, many) for k, shape in shapes.items()}, file)
    with pytest.raises(BundleError, match=r"attn1\.to_q\.weight would hold NaN or infinite"):
        exporting.export(name, tmp_path / "out", loras=loras.of(file))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora.safetensors", "t2v"]
    with pytest.raises(BundleError, match=r"a/b cannot be written: Not a directory"):
        exporting.export(name, pathlib.Path(file) / "a" / "b")
