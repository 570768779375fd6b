"""Directories of diffusers' layout with tiny models of each family, written without torch."""

import json
import pathlib

import ml_dtypes
import numpy as np
import tiny
from safetensors.numpy import save_file

from vjax import convert
from vjax.convert import directory as described

HEADS, HEAD_DIM, Z = 2, 12, 4
WIDTH = HEADS * HEAD_DIM
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "flow_shift": 3.0,
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "solver_order": 2,
    "solver_type": "bh2",
    "use_flow_sigmas": True,
}
TRANSFORMER = {
    "_class_name": "WanTransformer3DModel",
    "num_attention_heads": HEADS,
    "attention_head_dim": HEAD_DIM,
    "in_channels": Z,
    "out_channels": Z,
    "text_dim": 16,
    "freq_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "patch_size": [1, 2, 2],
    "rope_max_seq_len": 1024,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}
VAE = {
    "_class_name": "AutoencoderKLWan",
    "base_dim": 4,
    "z_dim": Z,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_scales": [],
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.1, -0.1, 0.2, 0.0],
    "latents_std": [0.5, 0.6, 0.7, 0.8],
    "is_residual": False,
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": None,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 8,
}
VAE_22 = {
    **VAE,
    "decoder_base_dim": 8,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}
TEXT = {
    "architectures": ["UMT5EncoderModel"],
    "model_type": "umt5",
    "vocab_size": 259,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": 1e-6,
    "dropout_rate": 0.0,
}
IMAGE = {
    "architectures": ["CLIPVisionModel"],
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
PROCESSOR = {
    "_class_name": "CLIPImageProcessor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_SEES_IMAGES = {"in_channels": Z + 4 + Z, "image_dim": 32, "added_kv_proj_dim": WIDTH}

# Of each family: its pipeline, what its transformer has beside, its VAE and more of its index.
FAMILIES: dict[str, tuple[str, dict, dict, dict]] = {
    "t2v": ("WanPipeline", {}, VAE, {}),
    "i2v": ("WanImageToVideoPipeline", _SEES_IMAGES, VAE, {}),
    "flf2v": ("WanImageToVideoPipeline", {**_SEES_IMAGES, "pos_embed_seq_len": 10}, VAE, {}),
    "vace": (
        "WanVACEPipeline",
        {
            "_class_name": "WanVACETransformer3DModel",
            "num_layers": 4,
            "vace_layers": [0, 2],
            "vace_in_channels": 2 * Z + 64,
        },
        VAE,
        {},
    ),
    "ti2v": ("WanPipeline", {}, VAE_22, {"expand_timesteps": True}),
    "a14b": ("WanPipeline", {}, VAE, {"boundary_ratio": 0.875}),
    "i2v_a14b": (
        "WanImageToVideoPipeline",
        {"in_channels": Z + 4 + Z},
        VAE,
        {"boundary_ratio": 0.9},
    ),
    "skyreels": (
        "SkyReelsV2DiffusionForcingPipeline",
        {"_class_name": "SkyReelsV2Transformer3DModel", "inject_sample_info": True},
        VAE,
        {},
    ),
}


def write(directory: pathlib.Path, family: str, dtype: str = "float32", **transformer) -> str:
    """Writes a tiny model of a family, with random weights of a type; returns its path.

    `transformer` changes its config.
    """
    _, changes, vae, _ = FAMILIES[family]
    write_configs(directory, family, {**TRANSFORMER, **changes, **transformer}, vae, TEXT, IMAGE)
    (directory / "tokenizer").mkdir(exist_ok=True)
    (directory / "tokenizer" / "tokenizer.json").write_text(tiny.BYTES, encoding="utf-8")
    model = described.read(directory, family)
    for seed, (network, config) in enumerate(model.networks.items()):
        folder = described.FOLDERS[network]
        stem = "model" if network in ("text", "image") else "diffusion_pytorch_model"
        tensors = random_tensors(config, seed)
        kind = getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype
        tensors = {name: np.ascontiguousarray(x.astype(kind)) for name, x in tensors.items()}
        save_file(tensors, directory / folder / f"{stem}.safetensors", {"format": "pt"})
    return str(directory)


def write_configs(
    directory: pathlib.Path, family: str, transformer: dict, vae: dict, text: dict, image: dict
) -> dict[str, dict]:
    """Writes all that describes a model of a family; returns the configs by their folders."""
    pipeline, _, _, index = FAMILIES[family]
    configs = {"transformer": transformer, "vae": vae, "text_encoder": text}
    if "boundary_ratio" in index:
        configs["transformer_2"] = transformer
    if transformer["image_dim"] is not None:
        configs["image_encoder"] = image
        _json(directory / "image_processor" / "preprocessor_config.json", PROCESSOR)
    for folder, config in configs.items():
        _json(directory / folder / "config.json", config)
    _json(directory / "scheduler" / "scheduler_config.json", SCHEDULER)
    listed = {
        folder: ["diffusers", config["_class_name"]]
        if "_class_name" in config
        else ["transformers", config["architectures"][0]]
        for folder, config in configs.items()
    }
    absent = {"transformer_2": [None, None], "image_encoder": [None, None]}
    _json(
        directory / "model_index.json",
        {
            "_class_name": pipeline,
            "_diffusers_version": "0.42.1",
            **absent,
            **listed,
            "scheduler": ["diffusers", "UniPCMultistepScheduler"],
            "tokenizer": ["transformers", "T5TokenizerFast"],
            **index,
        },
    )
    return configs


def random_tensors(config, seed: int) -> dict[str, np.ndarray]:
    """A network's tensors as published, in which nothing is zero, so that every input matters."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, source in convert.sources(config).items():
        for published in source.names:
            normal = rng.normal(size=source.shape).astype(np.float32)
            if name.endswith(("scale", "gamma")):
                normal = 1 + 0.1 * normal
            elif name.endswith("kernel"):
                normal /= np.sqrt(np.prod(source.shape[1:]), dtype=np.float32)
            elif not name.endswith("embedding"):
                normal *= 0.1
            found[published] = normal
    return found


def _json(file: pathlib.Path, values: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2))
