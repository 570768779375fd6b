"""LoRA files against diffusers and peft: loaded, weighed and merged by them, and saved by them."""

import numpy as np
import pytest
import tiny_lora
import tiny_wan
from test_against_pipelines import theirs
from tiny_lora import LAYERS, kohya, matrices, styled, written

from vjax import convert, loras, models, weights
from vjax.convert import lora

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

PIPELINES = {
    "t2v": "WanPipeline",
    "i2v": "WanImageToVideoPipeline",
    "vace": "WanVACEPipeline",
    "ti2v": "WanPipeline",
    "a14b": "WanPipeline",
    "skyreels": "SkyReelsV2DiffusionForcingPipeline",
}


def same(directory: str, given, transformer, network: str = "dit", least: int = 9) -> None:
    """Our merged weights are theirs, and are not what they were."""
    bundle = weights.load(directory, loras=loras.of(given))
    ours, sources = weights.flatten(bundle.params[network]), convert.sources(bundle.config.dit)
    before = weights.flatten(weights.load(directory).params[network])
    state = {name: x.detach().numpy() for name, x in transformer.state_dict().items()}
    differ = 0
    for name, source in sources.items():
        layers = [source.way.ours(state[each]) for each in source.names]
        wanted = np.stack(layers) if source.stacked else layers[0]
        np.testing.assert_allclose(ours[name], wanted, atol=1e-5, err_msg=name)
        differ += bool((ours[name] != before[name]).any())
    assert differ >= least


def fused(pipe, part: str = "transformer"):
    """Their transformer with what was loaded into it merged, and no sign of it left."""
    pipe.fuse_lora(components=[part])
    transformer = getattr(pipe, part)
    transformer.unload_lora()
    return transformer


@pytest.mark.parametrize("style", ["diffusers", "original", "kohya"])
@pytest.mark.parametrize("family", PIPELINES)
def test_merged_as_diffusers_does(tmp_path, family, style):
    directory = tiny_wan.write(tmp_path / family, family)
    config = weights.read_config(directory).dit
    layers = LAYERS | (tiny_lora.IMAGES if config.image_width else {})
    if family == "vace":
        layers |= {"vace_blocks.1.attn1.to_q": "vace_blocks.1.self_attn.q"}
    made = matrices(config, layers)
    if style == "diffusers":
        tensors = styled(made, "transformer.{diffusers}", layers)
    elif style == "original":
        # Their reader of these names knows no control branch, and wants a rank for each layer.
        made = {name: x for name, x in made.items() if not name.startswith("vace")}
        tensors = styled(made, "diffusion_model.{original}", layers)
        tensors["diffusion_model.blocks.0.ffn.2.diff_b"] = np.ones(24, np.float32)
    else:
        blocks = {
            f"blocks.{i}.{ours}": f"blocks.{i}.{original}"
            for i in range(config.depth)
            for ours, original in _BLOCK.items()
            if "img" not in original or config.image_width
        }
        made = matrices(config, blocks)
        tensors = kohya(made, blocks, alpha=1)  # they take whole blocks only
    file = written(tmp_path / "lora.safetensors", tensors)
    pipe = theirs(directory, getattr(diffusers, PIPELINES[family]))
    pipe.load_lora_weights(file, adapter_name="one")
    pipe.set_adapters(["one"], [0.5])
    if family == "a14b":
        pipe.load_lora_weights(file, adapter_name="two", load_into_transformer_2=True)
        pipe.transformer_2.set_adapters(["two"], [0.25])
        same(
            directory,
            [(f"{file}@high", 0.5), f"{file}@low:0.25"],
            fused(pipe, "transformer_2"),
            "low",
        )
    same(directory, [(file, 0.5)], fused(pipe))


_BLOCK = {
    "attn1.to_q": "self_attn.q",
    "attn1.to_k": "self_attn.k",
    "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_q": "cross_attn.q",
    "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v",
    "attn2.to_out.0": "cross_attn.o",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}


@pytest.mark.parametrize("saved", ["peft", "diffusers"])
def test_what_they_save(tmp_path, saved):
    directory = tiny_wan.write(tmp_path / "t2v", "t2v")
    pipe = theirs(directory, diffusers.WanPipeline)
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "to_k", "ffn.net.0.proj"],
        alpha_pattern={"blocks.1.attn1.to_q": 3},
        use_rslora=saved == "peft",
        init_lora_weights=False,
    )
    if saved == "peft":
        model = peft.get_peft_model(pipe.transformer, config)
        model.save_pretrained(tmp_path / "lora")
        transformer = model.merge_and_unload()
    else:
        pipe.transformer.add_adapter(config, adapter_name="default")
        pipe.save_lora_weights(
            tmp_path / "lora",
            transformer_lora_layers=peft.get_peft_model_state_dict(pipe.transformer),
            transformer_lora_adapter_metadata=config.to_dict()
            | {"target_modules": ["to_q", "to_k"]},
        )
        transformer = fused(pipe)
    bundle = weights.load(directory, loras=loras.of(str(tmp_path / "lora")))
    ours = weights.flatten(bundle.params["dit"])["blocks.self_attention.q.kernel"]
    state = transformer.state_dict()
    wanted = [state[f"blocks.{i}.attn1.to_q.weight"].detach().numpy().T for i in range(2)]
    np.testing.assert_allclose(ours, np.stack(wanted), atol=1e-5)


def test_what_we_save(tmp_path):
    directory = tiny_wan.write(tmp_path / "t2v", "t2v")
    config = weights.read_config(directory).dit
    rng, made = np.random.default_rng(0), {}
    for name, rank in (("blocks.self_attention.q", 3), ("blocks.ffn.down", 3), ("head", 3)):
        *layers, inputs, outputs = weights.flatten(models.abstract(config))[f"{name}.kernel"].shape
        shapes = (*layers, inputs, rank), (*layers, rank, outputs)
        down, up = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
        made[f"{name}.kernel"] = down, up
    lora.save(tmp_path / "a.safetensors", config, made)
    pipe = theirs(directory, diffusers.WanPipeline)
    pipe.load_lora_weights(str(tmp_path / "a.safetensors"))
    transformer = fused(pipe)
    same(directory, str(tmp_path / "a.safetensors"), transformer, least=3)
    before = weights.flatten(weights.load(directory).params["dit"])
    after = weights.load(directory, loras=loras.of(str(tmp_path / "a.safetensors"))).params["dit"]
    for name, (down, up) in made.items():
        wanted = before[name] + down @ up
        np.testing.assert_allclose(weights.flatten(after)[name], wanted, atol=1e-5, err_msg=name)
