"""What a directory of diffusers' layout says of its model, as a `ModelConfig`.

Its networks lie in folders with a `config.json` each, which `model_index.json` lists. What such
files leave open, as how many frames a model was made for, is that of its family as published: Wan
2.1 (arXiv:2503.20314), Wan 2.2, VACE (arXiv:2503.07598) and SkyReels-V2 (arXiv:2504.13074).
"""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from vjax import validation
from vjax.config import (
    ConfigError,
    DiTConfig,
    ImageConfig,
    ModelConfig,
    SamplerConfig,
    TextConfig,
    VAEConfig,
)

FOLDERS = {
    "dit": "transformer",
    "low": "transformer_2",
    "vae": "vae",
    "text": "text_encoder",
    "image": "image_encoder",
}
WAN, VACE, SKYREELS = (
    "WanTransformer3DModel",
    "WanVACETransformer3DModel",
    "SkyReelsV2Transformer3DModel",
)
_LONGEST_JSON = 2**24  # bytes

Json = Mapping[str, Any]

# Our fields, the published ones, and what those are where a file leaves them out.
_DIT = {
    "heads": ("num_attention_heads", 40),
    "head_dim": ("attention_head_dim", 128),
    "depth": ("num_layers", 40),
    "ffn": ("ffn_dim", 13_824),
    "in_channels": ("in_channels", 16),
    "out_channels": ("out_channels", 16),
    "patch": ("patch_size", (1, 2, 2)),
    "text_width": ("text_dim", 4096),
    "frequency_dim": ("freq_dim", 256),
    "eps": ("eps", 1e-6),
    "image_width": ("image_dim", None),
    "image_tokens": ("pos_embed_seq_len", None),
}
_VACE = {
    "control_channels": ("vace_in_channels", 96),
    "control_blocks": ("vace_layers", (0, 5, 10, 15, 20, 25, 30, 35)),
}
_VAE = {
    "base_dim": ("base_dim", 96),
    "decoder_base_dim": ("decoder_base_dim", None),
    "z_dim": ("z_dim", 16),
    "dim_mult": ("dim_mult", (1, 2, 4, 4)),
    "num_res_blocks": ("num_res_blocks", 2),
    "temporal_downsample": ("temperal_downsample", (False, True, True)),
    "residual": ("is_residual", False),
    "latents_mean": ("latents_mean", None),
    "latents_std": ("latents_std", None),
}
_TEXT = {
    "vocab": ("vocab_size", 250_112),
    "width": ("d_model", 512),
    "depth": ("num_layers", 8),
    "heads": ("num_heads", 6),
    "head_dim": ("d_kv", 64),
    "ffn": ("d_ff", 1024),
    "relative_buckets": ("relative_attention_num_buckets", 32),
    "relative_max_distance": ("relative_attention_max_distance", 128),
    "eps": ("layer_norm_epsilon", 1e-6),
}
_IMAGE = {
    "width": ("hidden_size", 768),
    "depth": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "ffn": ("intermediate_size", 3072),
    "patch": ("patch_size", 32),
    "side": ("image_size", 224),
    "activation": ("hidden_act", "quick_gelu"),
    "eps": ("layer_norm_eps", 1e-5),
}
# What must be so: other values mean a network that is not ours.
_DIT_IS = {"cross_attn_norm": True, "qk_norm": "rms_norm_across_heads"}
_VAE_IS: Json = {"attn_scales": []}
_UNIPC_IS = {
    "solver_order": 2,
    "solver_type": "bh2",
    "predict_x0": True,
    "lower_order_final": True,
    "final_sigmas_type": "zero",
    "disable_corrector": [],
    "thresholding": False,
}
_EULER_IS = {"shift_terminal": None, "invert_sigmas": False, "stochastic_sampling": False}
_SIGMAS_ARE = {
    "num_train_timesteps": 1000,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
}


def read(directory: pathlib.Path, name: str) -> ModelConfig:
    """The configuration of the model in a directory of diffusers' layout.

    Raises:
        ConfigError: a file is missing or broken, or the model is none of a family that we know;
            names the file.
    """
    index = described(directory / "model_index.json")
    found = {network: _config(directory, index, network) for network in FOLDERS}
    dit, low, vae, text, image = (found[network] for network in FOLDERS)
    for network in ("dit", "vae", "text"):
        if found[network] is None:
            raise ConfigError(
                f"{directory / 'model_index.json'} lists no {FOLDERS[network]}, which a "
                "model needs."
            )
    networks = {
        "dit": _read(directory, "dit", lambda: _dit(dit)),
        "vae": _read(directory, "vae", lambda: _vae(vae)),
        "text": _read(directory, "text", lambda: _text(text)),
    }
    if (image is None) != (networks["dit"].image_width is None):
        raise ConfigError(
            f"{directory / 'model_index.json'}: an image_encoder and a transformer with image_dim "
            "go together, and one is missing."
        )
    if image is not None:
        pixels = directory / "image_processor" / "preprocessor_config.json"
        processor = described(pixels) if pixels.is_file() else {}
        networks["image"] = _read(directory, "image", lambda: _image(image, processor))
    if low is not None and _read(directory, "low", lambda: _dit(low)) != networks["dit"]:
        raise ConfigError(f"{directory}: transformer_2 has another shape than transformer.")
    boundary = index.get("boundary_ratio")
    if (low is None) != (boundary is None):
        raise ConfigError(
            f"{directory / 'model_index.json'}: transformer_2 and boundary_ratio go together."
        )
    values = _family(name, index, dit, networks["dit"])
    sampler = {**values.pop("sampler"), **_schedule(directory, index)}
    licence = _licence(directory)
    return validation.from_dict(
        ModelConfig,
        {
            "name": name,
            **{network: validation.to_dict(config) for network, config in networks.items()},
            "boundary": boundary,
            **values,
            "max_frames": values["frames"],
            "sampler": validation.to_dict(validation.from_dict(SamplerConfig, sampler)),
            "licence": licence,
            "origin": f"its publishers ({index.get('_class_name')})",
        },
    )


def described(file: pathlib.Path) -> dict[str, Any]:
    """What a JSON file of a model holds. Raises ConfigError, which names it."""
    try:
        if file.stat().st_size > _LONGEST_JSON:
            raise ConfigError(f"{file} cannot be read: it has more than {_LONGEST_JSON} bytes.")
        text = file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    return parsed(text, file)


def parsed(text: str, where: str | pathlib.Path) -> dict[str, Any]:
    """The object that a JSON text is. Raises ConfigError, which names where it stands."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ConfigError(f"{where} cannot be read: it is nested too deeply.") from None
    except ValueError as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{where} cannot be read: it must be an object, got {str(found)[:60]!r}.")
    return found


def _config(directory: pathlib.Path, index: Json, network: str) -> dict[str, Any] | None:
    """The `config.json` of a network; None where the model has none."""
    folder = FOLDERS[network]
    listed = index.get(folder)
    if not listed or listed == [None, None]:
        return None
    if not isinstance(listed, list) or len(listed) != 2:
        raise ConfigError(f"{directory / 'model_index.json'}: {folder} is {str(listed)[:60]}.")
    return {"_class_name": listed[1], **described(directory / folder / "config.json")}


def _read(directory: pathlib.Path, network: str, read):
    try:
        return read()
    except ConfigError as error:
        file = directory / FOLDERS[network] / "config.json"
        raise ConfigError(f"{file} cannot be used: {error}") from error


def _fields(config: Json, fields: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    return {ours: config.get(theirs, usual) for ours, (theirs, usual) in fields.items()}


def _must_be(config: Json, values: Json) -> None:
    for name, value in values.items():
        if config.get(name, value) != value:
            raise ConfigError(f"{name} is {config[name]!r}, but only {value!r} is known here.")


def _dit(config: Json) -> DiTConfig:
    kind = config["_class_name"]
    if kind not in (WAN, VACE, SKYREELS):
        raise ConfigError(f"it is a {kind}; those that are known are {WAN}, {VACE} and {SKYREELS}.")
    _must_be(config, _DIT_IS)
    values = _fields(config, _DIT | (_VACE if kind == VACE else {}))
    if values["out_channels"] is None:
        values["out_channels"] = values["in_channels"]
    for name in ("heads", "head_dim"):
        if not isinstance(values[name], int):
            raise ConfigError(f"{_DIT[name][0]} must be a whole number, got {values[name]!r}.")
    values["width"] = values["heads"] * values["head_dim"]
    if config.get("inject_sample_info"):
        values["frame_rates"] = (16.0, 24.0)
    if config.get("num_frame_per_block", 1) != 1:
        values["frame_block"] = config["num_frame_per_block"]
    added = config.get("added_kv_proj_dim")
    if added != (values["width"] if values["image_width"] else None):
        raise ConfigError(
            f"added_kv_proj_dim is {added}, beside an image_dim of {values['image_width']}: blocks "
            "attend to an image with their own width, or there is none."
        )
    return validation.from_dict(DiTConfig, values)


def _vae(config: Json) -> VAEConfig:
    kind = config["_class_name"]
    if kind != "AutoencoderKLWan":
        raise ConfigError(f"it is a {kind}; the one that is known is AutoencoderKLWan.")
    _must_be(config, _VAE_IS)
    values = _fields(config, _VAE)
    values["patch_size"] = config.get("patch_size") or 1
    return validation.from_dict(VAEConfig, values)


def _text(config: Json) -> TextConfig:
    kind = config["_class_name"]
    if kind not in ("UMT5EncoderModel", "T5EncoderModel"):
        raise ConfigError(f"it is a {kind}; those that are known are UMT5 and T5 encoders.")
    _must_be(config, {"feed_forward_proj": "gated-gelu"})
    values = _fields(config, _TEXT)
    values["per_layer_bias"] = kind == "UMT5EncoderModel"
    return validation.from_dict(TextConfig, {**values, "max_length": 512, "clean": True})


def _image(config: Json, processor: Json) -> ImageConfig:
    kind = config["_class_name"]
    if kind not in ("CLIPVisionModel", "CLIPVisionModelWithProjection"):
        raise ConfigError(f"it is a {kind}; the one that is known is CLIPVisionModel.")
    values = _fields(config, _IMAGE)
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if theirs in processor:
            values[ours] = processor[theirs]
    return validation.from_dict(ImageConfig, values)


def _family(name: str, index: Json, transformer: Json, dit: DiTConfig) -> dict[str, Any]:
    """How a model takes known frames, what it was made for, and how it samples.

    Nothing but its name tells a model of 720p from that of 480p, or of 540p.
    """
    pipeline, kind = str(index.get("_class_name")), transformer["_class_name"]
    sampler: dict[str, Any] = {"solver": "unipc", "schedule": "diffusers"}
    values: dict[str, Any] = {"fps": 16.0, "frames": 81, "height": 480, "width": 832}
    conditioning = "channels" if dit.in_channels != dit.out_channels else "renoise"
    if kind == SKYREELS:
        if conditioning == "renoise" and "DiffusionForcing" in pipeline:
            conditioning, sampler["schedule"] = "per_frame", "skyreels"
        values |= {"fps": 24.0, "frames": 97, "height": 544, "width": 960}
        sampler |= {"steps": 50, "guidance": 6.0, "shift": 8.0}
    elif kind == VACE:
        conditioning = "control"
        sampler |= {"steps": 50, "guidance": 5.0, "shift": 5.0}
    elif index.get("expand_timesteps"):
        conditioning = "first_frame"
        values |= {"fps": 24.0, "frames": 121, "height": 704, "width": 1280}
        sampler |= {"steps": 50, "guidance": 5.0, "shift": 5.0}
    elif index.get("boundary_ratio") is not None:
        known = conditioning == "channels"
        sampler |= {"steps": 40, "shift": 5.0 if known else 12.0}
        sampler |= {"guidance": 3.5 if known else 4.0, "low_guidance": 3.5 if known else 3.0}
    else:
        first_alone = conditioning == "channels" and dit.image_tokens is None
        sampler |= {"steps": 40 if first_alone else 50, "guidance": 5.0, "shift": 5.0}
    if "720p" in name.lower():
        values |= {"height": 720, "width": 1280}
    return {**values, "conditioning": conditioning, "sampler": sampler}


def _schedule(directory: pathlib.Path, index: Json) -> dict[str, Any]:
    """What the scheduler's file says of the sampler."""
    file = directory / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        return {}
    config = described(file)
    listed = index.get("scheduler")
    kind = config.get("_class_name", listed[-1] if listed and isinstance(listed, list) else None)
    if kind == "FlowMatchEulerDiscreteScheduler":
        _known(file, config, {**_EULER_IS, **_SIGMAS_ARE})
        found = {"solver": "euler", "schedule": "flow_match", "shift": config.get("shift", 1.0)}
    elif kind == "UniPCMultistepScheduler":
        if not config.get("use_flow_sigmas") or config.get("prediction_type") != "flow_prediction":
            raise ConfigError(
                f"{file} cannot be used: the model must predict a flow (use_flow_sigmas true, "
                'prediction_type "flow_prediction").'
            )
        _known(file, config, {**_UNIPC_IS, **_SIGMAS_ARE})
        found = {"shift": config.get("flow_shift", 1.0)}
    else:
        raise ConfigError(
            f"{file} cannot be used: it is a {kind}; those that are known are "
            "UniPCMultistepScheduler and FlowMatchEulerDiscreteScheduler."
        )
    return found


def _known(file: pathlib.Path, config: Json, values: Json) -> None:
    try:
        _must_be(config, values)
    except ConfigError as error:
        raise ConfigError(f"{file} cannot be used: {error}") from error


def _licence(directory: pathlib.Path) -> str:
    """As the head of a model's README.md says it."""
    try:
        text = (directory / "README.md").read_text(encoding="utf-8")
        head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        said = yaml.safe_load(head[1]) if head else {}
        found = said.get("license_name") or said.get("license")
    except (OSError, ValueError, yaml.YAMLError, AttributeError):
        found = None
    return str(found)[:100] if found else "not stated"
