"""The configs of the published models of the Wan family, without their weights."""

import collections
import json
import pathlib
import re

import tiny_wan

_1_3B = {
    **tiny_wan.TRANSFORMER,
    "num_attention_heads": 12,
    "attention_head_dim": 128,
    "num_layers": 30,
    "ffn_dim": 8960,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
}
_5B = {
    **_1_3B,
    "num_attention_heads": 24,
    "ffn_dim": 14_336,
    "in_channels": 48,
    "out_channels": 48,
}
_14B = {**_1_3B, "num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13_824}
_KNOWN = {"in_channels": 36}
_SEES_IMAGES = {**_KNOWN, "image_dim": 1280, "added_kv_proj_dim": 5120}
_VACE = {"_class_name": "WanVACETransformer3DModel", "vace_in_channels": 96}
_SKYREELS = {"_class_name": "SkyReelsV2Transformer3DModel"}
_VAE = {
    **tiny_wan.VAE,
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "latents_mean": [0.0] * 16,
    "latents_std": [1.0] * 16,
}
_VAE_22 = {
    **_VAE,
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
TEXT = {
    **tiny_wan.TEXT,
    "vocab_size": 256_384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10_240,
    "num_layers": 24,
    "num_heads": 64,
}
IMAGE = {
    **tiny_wan.IMAGE,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
}
# Of each model: the family whose pipeline it has, its transformer and its VAE.
MODELS = {
    "Wan2.1-T2V-1.3B": ("t2v", _1_3B, _VAE),
    "Wan2.1-T2V-14B": ("t2v", _14B, _VAE),
    "Wan2.1-I2V-14B": ("i2v", {**_14B, **_SEES_IMAGES}, _VAE),
    "Wan2.1-FLF2V-14B": ("flf2v", {**_14B, **_SEES_IMAGES, "pos_embed_seq_len": 514}, _VAE),
    "Wan2.1-VACE-1.3B": ("vace", {**_1_3B, **_VACE, "vace_layers": list(range(0, 30, 2))}, _VAE),
    "Wan2.1-VACE-14B": ("vace", {**_14B, **_VACE, "vace_layers": list(range(0, 40, 5))}, _VAE),
    "Wan2.2-TI2V-5B": ("ti2v", _5B, _VAE_22),
    "Wan2.2-T2V-A14B": ("a14b", _14B, _VAE),
    "Wan2.2-I2V-A14B": ("i2v_a14b", {**_14B, **_KNOWN}, _VAE),
    "SkyReels-V2-DF-1.3B": ("skyreels", {**_1_3B, **_SKYREELS, "inject_sample_info": True}, _VAE),
    "SkyReels-V2-DF-14B": ("skyreels", {**_14B, **_SKYREELS}, _VAE),
}


def write(directory: pathlib.Path, model: str) -> dict[str, dict]:
    """Writes the configs of a model; returns them by their folders."""
    family, transformer, vae = MODELS[model]
    configs = tiny_wan.write_configs(directory, family, transformer, vae, TEXT, IMAGE)
    return configs


KEYS = pathlib.Path(__file__).parent / "data" / "published_keys.json"
_LAYER = re.compile(r"^((?:vace_)?blocks|encoder\.(?:block|layers))\.(\d+)\.")
_LAYERS = re.compile(r"\.(\d+)-(\d+)\.")

Shapes = dict[str, tuple[int, ...]]


def name_of(model: str, folder: str) -> str:
    """Under what the tensors of a network of a model are recorded."""
    if folder == "vae":
        return "Wan2.2 VAE" if model == "Wan2.2-TI2V-5B" else "Wan2.1 VAE"
    return {"text_encoder": "UMT5-XXL", "image_encoder": "CLIP ViT-H"}.get(folder, model)


def together(shapes: Shapes) -> Shapes:
    """Tensors of consecutive layers as one: `blocks.0-39.attn1.to_q.weight`."""
    layers: dict = collections.defaultdict(list)
    for name, shape in shapes.items():
        found = _LAYER.match(name)
        place = (found[1], name[found.end() :]) if found else (name, None)
        layers[(*place, tuple(shape))].append(int(found[2]) if found else 0)
    made = {}
    for (start, end, shape), numbers in layers.items():
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        name = start if end is None else f"{start}.{numbers[0]}-{numbers[-1]}.{end}"
        made[name] = shape
    return made


def apart(shapes: Shapes) -> Shapes:
    """The inverse of `together`."""
    made: Shapes = {}
    for name, shape in shapes.items():
        found = _LAYERS.search(name)
        first, last = map(int, found.groups()) if found else (0, 0)
        made |= {_LAYERS.sub(f".{i}.", name): tuple(shape) for i in range(first, last + 1)}
    return made


def recorded() -> dict[str, Shapes]:
    """The tensors of every published network, by `name_of`."""
    return {name: apart(shapes) for name, shapes in json.loads(KEYS.read_text()).items()}
