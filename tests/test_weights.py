"""Bundles: what is saved comes back, and what is wrong with one is said all at once."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from vjax import weights
from vjax.config import ImageConfig
from vjax.weights import BundleError


@pytest.fixture
def bundle(tmp_path):
    weights.save(tmp_path / "bundle", tiny.bundle(), dtype="float32")
    return tmp_path / "bundle"


def test_what_is_saved_comes_back(bundle):
    config, params, tokenizer, dtype, notes = vars(weights.load(str(bundle))).values()
    assert config == tiny.MODEL
    assert (dtype, notes) == (None, ())
    assert tokenizer.rules == tiny.BYTES
    assert jax.tree.structure(params) == jax.tree.structure(tiny.params())
    jax.tree.map(np.testing.assert_array_equal, params, tiny.params())


def test_weights_are_stored_in_half_the_space_by_default(bundle, tmp_path):
    weights.save(tmp_path / "half", tiny.bundle())
    params = weights.load(str(tmp_path / "half")).params
    rounded = jax.tree.map(
        lambda leaf: np.asarray(jax.numpy.asarray(leaf, "bfloat16"), np.float32), tiny.params()
    )
    jax.tree.map(np.testing.assert_array_equal, params, rounded)
    full, half = (path / "dit.safetensors" for path in (bundle, tmp_path / "half"))
    assert half.stat().st_size < 0.7 * full.stat().st_size


def test_int8_is_right_to_half_a_step_of_each_column(tmp_path):
    weights.save(tmp_path / "int8", tiny.bundle(), dtype="int8")
    params = weights.load(str(tmp_path / "int8")).params
    found, wanted = (weights.flatten(tree["dit"]) for tree in (params, tiny.params()))
    kernel = "blocks.ffn.up.kernel"
    step = np.abs(wanted[kernel]).max(axis=-2, keepdims=True) / 127
    error = np.abs(found[kernel] - wanted[kernel])
    assert error.max() > 0
    assert (error <= 0.501 * step).all()
    np.testing.assert_allclose(found["patch_embed.bias"], wanted["patch_embed.bias"], rtol=2**-8)


def test_single_networks_can_be_loaded(bundle):
    params = weights.load(str(bundle), networks=("vae",)).params
    assert list(params) == ["vae"]


def test_an_unknown_model_lists_the_shipped_ones(bundle, monkeypatch):
    monkeypatch.setattr(weights, "ASSETS", bundle.parent)
    assert weights.read_config("bundle") == tiny.MODEL
    with pytest.raises(BundleError, match=r"Unknown model 'other'.*one of: bundle"):
        weights.load("other")


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"holds no model: it has no model\.json"):
        weights.load(str(tmp_path))


def test_all_wrong_tensors_are_named_at_once(bundle):
    file = bundle / "dit.safetensors"
    tensors = load_file(file)
    tensors["extra.kernel"] = np.zeros(3, np.float32)
    tensors["head.kernel"] = np.zeros((2, 3), np.float32)
    del tensors["anchor_embed"]
    save_file(tensors, file)
    (bundle / "text.safetensors").unlink()
    with pytest.raises(BundleError) as caught:
        weights.load(str(bundle))
    for part in (
        "dit.safetensors lacks anchor_embed",
        "dit.safetensors has an unknown extra.kernel",
        "dit.safetensors: head.kernel is (2, 3), should be (16, 4)",
        "text.safetensors is missing",
    ):
        assert part in str(caught.value)


def test_a_truncated_file_is_refused(bundle):
    file = bundle / "vae.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BundleError, match=r"vae\.safetensors cannot be read"):
        weights.load(str(bundle))
    file.write_bytes(b"")
    with pytest.raises(BundleError, match=r"vae\.safetensors cannot be read"):
        weights.load(str(bundle))


@pytest.mark.parametrize(
    "text",
    [b'{"name": ', b"[]", b"\xff\xfe", b"{}", b"[" * 10**5, b'{"name":' + b"[" * 990 + b"]" * 990],
    ids=["torn", "list", "no text", "empty", "deep", "deep enough"],
)
def test_a_broken_description_is_refused(bundle, text):
    (bundle / "model.json").write_bytes(text)
    with pytest.raises(BundleError, match=r"model\.json cannot be read"):
        weights.load(str(bundle))


def test_an_unknown_field_is_refused(bundle):
    values = json.loads((bundle / "model.json").read_text())
    (bundle / "model.json").write_text(json.dumps({**values, "colour": 1}))
    with pytest.raises(BundleError, match="'colour'"):
        weights.load(str(bundle))


def test_what_is_no_number_is_refused_by_name(bundle):
    tensors = load_file(bundle / "vae.safetensors")
    for value in (np.nan, np.inf):
        tensors["quant_conv.bias"][1] = value
        save_file(tensors, bundle / "vae.safetensors")
        with pytest.raises(BundleError, match=r"vae\.safetensors: quant_conv\.bias holds NaN"):
            weights.load(str(bundle))


def test_scales_of_a_wrong_shape_ask_for_no_memory(tmp_path):
    weights.save(tmp_path / "int8", tiny.bundle(), dtype="int8")
    file = tmp_path / "int8" / "dit.safetensors"
    tensors = load_file(file)
    kernel = "blocks.ffn.up.kernel"
    tensors[f"{kernel}.int8_scale"] = np.ones((10**6, 1, 1, 1), np.float32)
    save_file(tensors, file)
    with pytest.raises(
        BundleError, match=r"int8_scale is \(1000000, 1, 1, 1\), should be \(2, 1, 32\)"
    ):
        weights.load(str(tmp_path / "int8"))
    del tensors[f"{kernel}.int8_scale"]
    tensors["head.bias"] = tensors["head.bias"].astype(np.int64)
    tensors["none.int8_scale"] = np.ones(4, np.float32)
    save_file(tensors, file)
    with pytest.raises(BundleError, match=r"lacks .*_scale.*unknown none.*type I64"):
        weights.load(str(tmp_path / "int8"))


def test_a_tokenizer_that_is_not_there_is_named(bundle):
    (bundle / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer .*tokenizer\.json cannot be read"):
        weights.load(str(bundle))


def test_a_fingerprint_is_of_all_that_decides_a_result(bundle):
    first = weights.fingerprint(str(bundle))
    more = dataclasses.replace(tiny.MODEL.sampler, steps=9)  # which whoever samples says
    weights.save(bundle, tiny.bundle(tiny.model(name="other", sampler=more)), dtype="float32")
    assert weights.fingerprint(str(bundle)) == first
    seen = {first}
    for name in ("dit.safetensors", "text.safetensors", "tokenizer.json", "vae.safetensors"):
        content = (bundle / name).read_bytes()
        (bundle / name).write_bytes(content + b" ")
        seen.add(weights.fingerprint(str(bundle)))
        (bundle / name).write_bytes(content)
    assert weights.fingerprint(str(bundle)) == first
    vae = dataclasses.replace(tiny.MODEL.vae, latents_std=(2.0,) * tiny.MODEL.vae.z_dim)
    schedule = dataclasses.replace(tiny.MODEL.sampler, schedule="diffusers")
    image = ImageConfig(width=8, depth=2, heads=1, ffn=8, patch=8, side=8)
    changes: tuple = (
        {"vae": vae},
        {"fps": tiny.MODEL.fps + 1},
        {"max_frames": 33},
        {"boundary": 0.5},
        {"boundary": 0.6},
        {"sampler": schedule},
        {"image": image},
        {"image": dataclasses.replace(image, mean=(0.5, 0.5, 0.5))},
    )
    for model in (tiny.model(**change) for change in changes):
        weights.save(bundle, tiny.bundle(model), dtype="float32")
        seen.add(weights.fingerprint(str(bundle)))
    assert len(seen) == 13


@pytest.fixture(params=["at once", "in two steps"])
def exchange(request, monkeypatch):
    """Both ways in which a system may swap directories."""
    if request.param == "in two steps":
        monkeypatch.setattr(weights.ctypes, "CDLL", lambda name: None)


@pytest.mark.parametrize("broken", ["save_file", "rename"])
def test_a_failed_save_leaves_the_good_bundle(bundle, broken, monkeypatch):
    kept = {path.name: path.read_bytes() for path in bundle.iterdir()}
    rename = pathlib.Path.rename

    def fails(*arguments):
        raise OSError("No space left on device")

    def fails_at_the_new_one(path, target):
        if target == bundle and not path.name.endswith("-old"):
            fails()
        return rename(path, target)

    if broken == "save_file":
        monkeypatch.setattr(weights, "save_file", fails)
    else:
        monkeypatch.setattr(weights.ctypes, "CDLL", lambda name: None)
        monkeypatch.setattr(pathlib.Path, "rename", fails_at_the_new_one)
    with pytest.raises(OSError, match="No space"):
        weights.save(bundle, tiny.bundle())
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == kept
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_full_disk_is_told_in_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise weights.SafetensorError("No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(BundleError, match="cannot be written: No space"):
        weights.save(tmp_path / "bundle", tiny.bundle())
    assert not list(tmp_path.iterdir())


def test_saving_again_replaces_the_bundle_and_keeps_what_lies_beside_it(bundle, exchange):
    (bundle / "notes.txt").write_text("mine")
    (bundle / "samples").mkdir()
    vae = weights.Bundle(tiny.model(name="new", dit=None, text=None), {"vae": tiny.params()["vae"]})
    weights.save(bundle, vae)
    assert sorted(path.name for path in bundle.iterdir()) == [
        "model.json",
        "notes.txt",
        "samples",
        "vae.safetensors",
    ]
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    assert weights.load(str(bundle)).config.name == "new"


def test_a_second_expert_goes_with_its_bundle(bundle):
    params = {**tiny.params(), "low": tiny.params()["dit"]}
    two = dataclasses.replace(tiny.bundle(tiny.model(boundary=0.5)), params=params)
    for saved in (two, two, tiny.bundle()):
        weights.save(bundle, saved)
        networks = {path.stem for path in bundle.glob("*.safetensors")}
        assert networks == saved.params.keys()
        assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_nothing_but_a_bundle_is_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "model.json").write_text("{}")
    (tmp_path / "file").write_text("mine")
    for name in ("photos", "file"):
        with pytest.raises(BundleError, match=f"{name} (holds something else|is a file)"):
            weights.save(tmp_path / name, tiny.bundle())
    assert (tmp_path / "photos" / "model.json").read_text() == "{}"
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    weights.save(tmp_path / "link", tiny.bundle())
    assert (tmp_path / "empty" / "model.json").is_file()
    assert (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 4
