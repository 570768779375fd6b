"""Directories of diffusers' layout: read as their publishers mean them, or refused by name."""

import json
import pathlib

import numpy as np
import published
import pytest
import tiny_wan
from safetensors.numpy import load_file, save_file

from vjax import convert, weights
from vjax.convert import directory as described
from vjax.weights import BundleError


@pytest.fixture
def t2v(tmp_path):
    tiny_wan.write(tmp_path / "t2v", "t2v")
    return tmp_path / "t2v"


def change(file: pathlib.Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("family", "conditioning", "fps", "frames", "size", "guidance", "low"),
    [
        ("t2v", "renoise", 16, 81, (480, 832), 5, None),
        ("i2v", "channels", 16, 81, (480, 832), 5, None),
        ("flf2v", "channels", 16, 81, (480, 832), 5, None),
        ("vace", "control", 16, 81, (480, 832), 5, None),
        ("ti2v", "first_frame", 24, 121, (704, 1280), 5, None),
        ("a14b", "renoise", 16, 81, (480, 832), 4, 3),
        ("i2v_a14b", "channels", 16, 81, (480, 832), 3.5, 3.5),
        ("skyreels", "per_frame", 24, 97, (544, 960), 6, None),
    ],
)
def test_each_family_is_known(tmp_path, family, conditioning, fps, frames, size, guidance, low):
    bundle = weights.load(tiny_wan.write(tmp_path / family, family))
    model = bundle.config
    assert (model.name, model.conditioning) == (family, conditioning)
    assert (model.fps, model.frames, (model.height, model.width)) == (fps, frames, size)
    sampler = model.sampler
    assert (sampler.guidance, sampler.low_guidance) == (guidance, low)
    schedule = "skyreels" if family == "skyreels" else "diffusers"
    assert (sampler.solver, sampler.schedule, sampler.shift) == ("unipc", schedule, 3)
    assert set(bundle.params) == set(model.networks)
    assert ("low" in bundle.params) == (family.endswith("a14b"))
    assert model.vae.spatial_ratio == (16 if family == "ti2v" else 8)
    assert ("image" in bundle.params) == (family in ("i2v", "flf2v"))
    assert model.dit.image_tokens == (10 if family == "flf2v" else None)
    assert sampler.steps == (40 if family in ("i2v", "a14b", "i2v_a14b") else 50)
    if family == "vace":
        assert (model.dit.control_channels, model.dit.control_blocks) == (72, (0, 2))
    if family == "skyreels":
        assert model.dit.frame_rates == (16, 24)


def test_a_name_tells_of_720p(tmp_path):
    model = weights.read_config(tiny_wan.write(tmp_path / "I2V-14B-720P-Diffusers", "i2v"))
    assert (model.width, model.height) == (1280, 720)


def test_blocks_of_frames_are_known(tmp_path):
    for frames, block in ((1, None), (3, 3)):
        directory = tiny_wan.write(tmp_path / str(frames), "skyreels", num_frame_per_block=frames)
        assert weights.read_config(directory).dit.frame_block == block


def test_layers_are_stacked_and_kernels_turned(t2v):
    theirs = load_file(t2v / "transformer" / "diffusion_pytorch_model.safetensors")
    ours = weights.load(str(t2v)).params["dit"]
    q = ours["blocks"]["self_attention"]["q"]
    for layer in range(2):
        np.testing.assert_array_equal(
            q["kernel"][layer], theirs[f"blocks.{layer}.attn1.to_q.weight"].T
        )
        np.testing.assert_array_equal(q["bias"][layer], theirs[f"blocks.{layer}.attn1.to_q.bias"])
    patch = theirs["patch_embedding.weight"].reshape(tiny_wan.WIDTH, -1).T
    np.testing.assert_array_equal(ours["patch_embed"]["kernel"], patch)


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight", None])
def test_either_name_of_the_text_embedding_serves(t2v, kept):
    file = t2v / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    table = tensors.pop("shared.weight")
    tensors |= {kept: table} if kept else {}
    save_file(tensors, file)
    if kept is None:
        with pytest.raises(BundleError, match=r"text_encoder lacks shared\.weight"):
            weights.load(str(t2v))
        return
    np.testing.assert_array_equal(weights.load(str(t2v)).params["text"]["embedding"], table)
    save_file({**tensors, "encoder.embed_tokens.weight": table + 1, "shared.weight": table}, file)
    np.testing.assert_array_equal(weights.load(str(t2v)).params["text"]["embedding"], table)


def test_all_that_is_wrong_with_all_networks_is_said_at_once(t2v):
    file = t2v / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for layer in range(2):
        tensors[f"blocks.{layer}.attn1.norm_added_q.weight"] = np.ones(3, np.float32)  # ignored
        tensors[f"blocks.{layer}.attn3.to_q.weight"] = np.ones(3, np.float32)
        del tensors[f"blocks.{layer}.norm2.bias"]
    tensors["proj_out.weight"] = np.zeros((3, 2), np.float32)
    tensors["proj_out.bias"] = tensors["proj_out.bias"].astype(np.int64)
    save_file(tensors, file)
    file = t2v / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["quant_conv.bias"]
    save_file(tensors, file)
    with pytest.raises(BundleError) as caught:
        weights.load(str(t2v))
    for part in (
        "transformer lacks blocks.*.norm2.bias (2 times)",
        "transformer has an unknown blocks.*.attn3.to_q.weight (2 times)",
        "transformer: proj_out.weight is (3, 2), should be (16, 24)",
        "transformer: proj_out.bias is of type I64",
        "vae lacks quant_conv.bias",
    ):
        assert part in str(caught.value)
    assert "norm_added_q" not in str(caught.value)


def sharded(folder: pathlib.Path, stem: str = "diffusion_pytorch_model") -> list[pathlib.Path]:
    """Makes two shards of a network's file."""
    whole = folder / f"{stem}.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    names, listed, files = sorted(tensors), {}, []
    for i, part in enumerate((names[::2], names[1::2]), 1):
        files.append(folder / f"{stem}-0000{i}-of-00002.safetensors")
        save_file({name: tensors[name] for name in part}, files[-1])
        listed |= dict.fromkeys(part, files[-1].name)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return files


def test_shards_are_one_checkpoint(t2v):
    whole = weights.load(str(t2v)).params
    sharded(t2v / "transformer")
    sharded(t2v / "text_encoder", "model")
    parts = weights.load(str(t2v)).params
    for name, leaf in weights.flatten(whole).items():
        np.testing.assert_array_equal(weights.flatten(parts)[name], leaf)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("missing", r"00002-of-00002\.safetensors is missing"),
        ("truncated", r"00002-of-00002\.safetensors cannot be read: it was cut short"),
        ("link", r"00002-of-00002\.safetensors is a link to .*blob, which is not there"),
        ("pointer", r"00002-of-00002\.safetensors cannot be read: it is only a pointer"),
        ("other", r"00002-of-00002\.safetensors lacks .* more, which .*index\.json says it has"),
        ("more", r"00002-of-00002\.safetensors has spare, which .*index\.json does not list"),
        ("index", r"index\.json cannot be read"),
        ("elsewhere", r"index\.json cannot be read.*lies elsewhere"),
        ("no index", r"holds no diffusion_pytorch_model\.safetensors, but .*-00001-of-00002"),
    ],
)
def test_a_fault_of_a_shard_is_named(t2v, fault, said):
    file = sharded(t2v / "transformer")[1]
    index = t2v / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    if fault == "truncated":
        file.write_bytes(file.read_bytes()[:-10])
    elif fault == "pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    elif fault in ("missing", "link"):
        file.unlink()
        if fault == "link":
            file.symlink_to("../../blobs/blob")
    elif fault == "other":
        save_file({"another.weight": np.zeros(2, np.float32)}, file)
    elif fault == "more":
        save_file({**load_file(file), "spare": np.zeros(2, np.float32)}, file)
    elif fault == "index":
        index.write_text("{")
    elif fault == "elsewhere":
        change(index, weight_map={"head": "../../elsewhere.safetensors"})
    else:
        index.unlink()
    with pytest.raises(BundleError, match=said):
        weights.load(str(t2v))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_a_pickle_is_refused_with_the_reason(t2v, suffix):
    file = t2v / "transformer" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(suffix))
    with pytest.raises(BundleError, match=rf"model\{suffix} .*pickle, which can run any code"):
        weights.load(str(t2v))


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("model_index.json", {"vae": [None, None]}, "lists no vae, which a model needs"),
        ("model_index.json", {"transformer": 3}, r"model_index\.json: transformer is 3"),
        ("model_index.json", {"boundary_ratio": 0.5}, "transformer_2 and boundary_ratio go"),
        ("transformer/config.json", {"_class_name": "Flux"}, "it is a Flux; those that are known"),
        ("transformer/config.json", {"num_layers": "two"}, "depth must be a whole number"),
        ("transformer/config.json", {"qk_norm": None}, "qk_norm is None, but only"),
        ("transformer/config.json", {"in_channels": 48}, "dit.in_channels must be vae.z_dim"),
        ("vae/config.json", {"z_dim": 48}, "latents_mean has 4 numbers, the latents 48"),
        ("vae/config.json", {"attn_scales": [1.0]}, "attn_scales is"),
        ("text_encoder/config.json", {"d_model": 8}, "dit.text_width must be text.width"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "predict a flow"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIM"}, "it is a DDIM"),
    ],
)
def test_configs_that_do_not_fit_are_refused_before_weights_are_read(t2v, file, values, said):
    for path in t2v.rglob("*.safetensors"):
        path.unlink()
    change(t2v / file, **values)
    with pytest.raises(BundleError, match=said):
        weights.load(str(t2v))


def test_a_48_channel_vae_does_not_serve_a_16_channel_model(t2v):
    numbers = {"z_dim": 48, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48}
    change(t2v / "vae" / "config.json", **numbers)
    with pytest.raises(BundleError, match=r"dit\.out_channels must be vae\.z_dim"):
        weights.read_config(str(t2v))


def test_the_schedule_is_what_the_scheduler_says(t2v):
    file = t2v / "scheduler" / "scheduler_config.json"
    change(file, flow_shift=5.5)
    assert weights.read_config(str(t2v)).sampler.shift == 5.5
    change(file, _class_name="FlowMatchEulerDiscreteScheduler", shift=7.0)
    sampler = weights.read_config(str(t2v)).sampler
    assert (sampler.solver, sampler.schedule, sampler.shift) == ("euler", "flow_match", 7)
    change(file, use_karras_sigmas=True)
    with pytest.raises(BundleError, match=r"scheduler_config\.json cannot be used: use_karras"):
        weights.read_config(str(t2v))
    file.unlink()
    assert weights.read_config(str(t2v)).sampler.shift == 5


def test_the_licence_is_what_the_model_says(t2v):
    assert weights.read_config(str(t2v)).licence == "not stated"
    (t2v / "README.md").write_text("---\nlicense: other\nlicense_name: skywork\n---\n# Model\n")
    assert weights.read_config(str(t2v)).licence == "skywork"


def test_a_fingerprint_is_of_every_tensor(t2v):
    first = weights.fingerprint(str(t2v))
    file = t2v / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    for name in ("proj_out.bias", "scale_shift_table"):
        save_file({**tensors, name: tensors[name] + 1}, file, {"format": "pt"})
        assert weights.fingerprint(str(t2v)) != first
    save_file(tensors, file, {"format": "pt"})
    assert weights.fingerprint(str(t2v)) == first
    change(t2v / "vae" / "config.json", latents_std=[2.0] * 4)
    assert weights.fingerprint(str(t2v)) != first


def test_a_fingerprint_tells_two_experts_apart(tmp_path):
    name = tiny_wan.write(tmp_path / "a14b", "a14b")
    first = weights.fingerprint(name)
    one, other = (
        tmp_path / "a14b" / folder / "diffusion_pytorch_model.safetensors"
        for folder in ("transformer", "transformer_2")
    )
    one.rename(tmp_path / "kept")
    other.rename(one)
    (tmp_path / "kept").rename(other)
    swapped = weights.fingerprint(name)
    change(tmp_path / "a14b" / "model_index.json", boundary_ratio=0.8)
    assert len({first, swapped, weights.fingerprint(name)}) == 3


def test_a_loaded_directory_is_saved_as_a_bundle(t2v, tmp_path):
    loaded = weights.load(str(t2v))
    weights.save(tmp_path / "bundle", loaded, dtype="float32")
    again = weights.load(str(tmp_path / "bundle"))
    assert again.config == loaded.config
    for name, leaf in weights.flatten(loaded.params).items():
        np.testing.assert_array_equal(weights.flatten(again.params)[name], leaf)


@pytest.mark.parametrize("model", published.MODELS)
def test_every_published_tensor_has_its_place(tmp_path, model):
    """As the libraries name them, see `test_against_convert.py`; no weights are made."""
    configs = published.write(tmp_path / model, model)
    networks, recorded = weights.read_config(str(tmp_path / model)).networks, published.recorded()
    assert len(networks) == len(configs)
    for network, config in networks.items():
        shapes = recorded[published.name_of(model, described.FOLDERS[network])]
        known = convert.known_as(config, shapes)
        sources = convert.sources(config).values()
        wanted = {name: source.shape for source in sources for name in source.names}
        assert {name: shapes[theirs] for name, theirs in known.items()} == wanted


def test_an_image_encoder_of_an_older_file_serves_too(tmp_path):
    name = tiny_wan.write(tmp_path / "i2v", "i2v")
    wanted = weights.flatten(weights.load(name).params["image"])
    file = tmp_path / "i2v" / "image_encoder" / "model.safetensors"
    tensors = {f"vision_model.{key}": value for key, value in load_file(file).items()}
    extra = ("encoder.layers.2.mlp.fc1.bias", "post_layernorm.bias", "embeddings.position_ids")
    tensors |= {f"vision_model.{key}": np.ones(3, np.float32) for key in extra}
    tensors["visual_projection.weight"] = np.ones(3, np.float32)
    save_file(tensors, file)
    found = weights.flatten(weights.load(name).params["image"])
    for key, leaf in wanted.items():
        np.testing.assert_array_equal(found[key], leaf)
    save_file({**tensors, "vision_model.encoder.layers.3.mlp.fc1.bias": np.ones(3)}, file)
    with pytest.raises(BundleError, match=r"image_encoder has an unknown encoder\.layers\.3"):
        weights.load(name)


def test_an_image_encoder_that_is_not_listed_is_missed(tmp_path):
    i2v = pathlib.Path(tiny_wan.write(tmp_path / "i2v", "i2v"))
    change(i2v / "model_index.json", image_encoder=[None, None], scheduler=5)
    with pytest.raises(BundleError, match="image_encoder and a transformer with image_dim go"):
        weights.read_config(str(i2v))
    change(i2v / "model_index.json", image_encoder=["transformers", "CLIPVisionModel"])
    (i2v / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(BundleError, match=r"scheduler_config\.json cannot be used: it is a None"):
        weights.read_config(str(i2v))
