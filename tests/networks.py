"""Tiny networks of the Wan family, as ours and as diffusers and transformers have them.

Their weights follow from their published names, so that nobody has to keep any.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce

from vjax import convert, models
from vjax.config import DiTConfig, ImageConfig, TextConfig, VAEConfig

WAN = DiTConfig(
    width=24,
    depth=2,
    heads=2,
    head_dim=12,
    ffn=32,
    in_channels=4,
    out_channels=4,
    text_width=16,
    frequency_dim=32,
)
VACE = dataclasses.replace(WAN, depth=4, control_channels=6, control_blocks=(0, 2))
I2V = dataclasses.replace(WAN, in_channels=12, image_width=20)
SKYREELS = dataclasses.replace(WAN, frame_rates=(16.0, 24.0))
WAN21 = VAEConfig(base_dim=4, z_dim=3, dim_mult=(1, 2, 2, 2), num_res_blocks=1)
WAN22 = VAEConfig(
    base_dim=8,
    decoder_base_dim=4,
    z_dim=48,
    dim_mult=(1, 1, 2, 2),
    num_res_blocks=1,
    patch_size=2,
    residual=True,
)
UMT5 = TextConfig(vocab=128, width=32, depth=2, heads=4, head_dim=8, ffn=64)
CLIP = ImageConfig(width=24, depth=3, heads=2, ffn=40, patch=4, side=15)


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, what it is given, the method that is called, and how close two of it must be."""

    config: Any
    inputs: Mapping[str, np.ndarray]
    method: str = "__call__"
    tolerance: float = 1e-4  # of the largest number


def drawn(name: str, *shape: int) -> np.ndarray:
    """Normal numbers that follow from a name."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return random.standard_normal(shape).astype(np.float32)


def weights(config: Any) -> dict[str, np.ndarray]:
    """Published tensors in which nothing is zero, so that every one of them matters."""

    def draw(name, shape):
        if "norm" in name and not name.endswith("bias"):
            return 1 + 0.1 * drawn(name, *shape)
        wide = len(shape) > 1 and "embed" not in name
        return drawn(name, *shape) / (math.prod(shape[1:]) ** 0.5 if wide else 3)

    found = {}
    for source in convert.sources(config).values():
        found |= {name: draw(name, source.shape) for name in source.names}
    return found


def params(config: Any) -> models.Params:
    """The same as parameters of ours."""
    published, tree = weights(config), {}
    for name, source in convert.sources(config).items():
        layers = [source.way.ours(published[each]) for each in source.names]
        *path, last = name.split(".")
        node = functools.reduce(lambda node, part: node.setdefault(part, {}), path, tree)
        node[last] = np.stack(layers) if source.stacked else layers[0]
    return tree


@functools.partial(jax.jit, static_argnums=(0, 1))
def call(config: Any, method: str, params: models.Params, inputs: Mapping[str, Any]) -> Any:
    """A method of our network."""
    if "latents" in inputs and isinstance(config, DiTConfig):
        inputs = inputs | {"positions": jnp.arange(inputs["latents"].shape[1], dtype=jnp.float32)}
    return getattr(models.bind(config, params), method)(**inputs)


@functools.cache
def ours(name: str) -> np.ndarray:
    """What our network makes of a case."""
    case = CASES[name]
    found = call(case.config, case.method, params(case.config), dict(case.inputs))
    found = np.asarray(jnp.concatenate(found, -1) if isinstance(found, tuple) else found)
    return np.clip(found, -1, 1) if case.method.startswith("decode") else found


def theirs(name: str) -> np.ndarray:
    """What the published network makes of it, in our layout."""
    import torch

    case = CASES[name]
    network = _BUILT[type(case.config)](case.config)
    given = {name: torch.from_numpy(x) for name, x in weights(case.config).items()}
    missing, unexpected = network.load_state_dict(given, strict=False)
    assert not unexpected
    assert not [name for name in missing if not name.startswith(_UNUSED)]
    inputs = {name: torch.from_numpy(np.array(x)) for name, x in case.inputs.items()}
    with torch.no_grad():
        return _RUN[type(case.config)](network.eval(), case, inputs).numpy()


def some(output: np.ndarray) -> np.ndarray:
    """Numbers from all over an output, few enough to keep."""
    return output.ravel()[:: -(-output.size // 500) | 1]


_UNUSED = ("encoder.embed_tokens", "encoder.layers.2", "post_layernorm")


def _dit(config: DiTConfig):
    import diffusers

    options = {
        "num_attention_heads": config.heads,
        "attention_head_dim": config.head_dim,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "text_dim": config.text_width,
        "freq_dim": config.frequency_dim,
        "ffn_dim": config.ffn,
        "num_layers": config.depth,
        "rope_max_seq_len": 32,
        "image_dim": config.image_width,
        "added_kv_proj_dim": config.image_width and config.width,
        "pos_embed_seq_len": config.image_tokens,
    }
    if config.control_blocks:
        blocks = list(config.control_blocks)
        channels = config.control_channels
        return diffusers.WanVACETransformer3DModel(
            **options, vace_layers=blocks, vace_in_channels=channels
        )
    if config.frame_rates or config.frame_block:
        return diffusers.SkyReelsV2Transformer3DModel(
            **options,
            inject_sample_info=bool(config.frame_rates),
            num_frame_per_block=config.frame_block or 1,
        )
    return diffusers.WanTransformer3DModel(**options)


def run_dit(network, case, given):
    import torch

    if case.method == "image_embed":
        return network.condition_embedder.image_embedder(given["image"])
    config, t = case.config, case.inputs["t"]
    latents = torch.cat([given[name] for name in ("latents", "channels") if name in given], -1)
    if t.ndim == 4:
        t = reduce(t, "b f (h p) (w q) -> b (f h w)", "max", p=2, q=2)
    options = {}
    if "control" in given:
        options["control_hidden_states"] = rearrange(given["control"], "b t h w c -> b c t h w")
    if "image" in given:
        # Its positions are for two images, which come as two samples.
        images = 2 if config.image_tokens else 1
        image = rearrange(given["image"], "b (i n) d -> (b i) n d", i=images)
        options["encoder_hidden_states_image"] = image
    if config.frame_rates or config.frame_block:
        options["enable_diffusion_forcing"] = t.ndim == 2
        options["fps"] = case.inputs.get("frame_rate")
    (out,) = network(
        rearrange(latents, "b t h w c -> b c t h w"),
        1000 * torch.from_numpy(np.array(t)),
        given["text"],
        **options,
        return_dict=False,
    )
    return rearrange(out, "b c t h w -> b t h w c")


def _vae(config: VAEConfig):
    import diffusers

    pixels = 3 * config.patch_size**2
    residual = {
        "decoder_base_dim": config.decoder_base_dim,
        "is_residual": True,
        "in_channels": pixels,
        "out_channels": pixels,
        "patch_size": config.patch_size,
        "scale_factor_spatial": config.spatial_ratio,
    }
    return diffusers.AutoencoderKLWan(
        base_dim=config.base_dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        latents_mean=[0.0] * config.z_dim,
        latents_std=[1.0] * config.z_dim,
        **(residual if config.residual else {}),
    )


def _run_vae(network, case, given):
    (x,) = given.values()
    x = rearrange(x, "b t h w c -> b c t h w")
    if case.method.startswith("encode"):
        out = network.encode(x).latent_dist.parameters
    else:
        out = network.decode(x).sample  # clipped to [-1, 1]
    return rearrange(out, "b c t h w -> b t h w c")


def _text(config: TextConfig):
    import transformers

    family = "UMT5" if config.per_layer_bias else "T5"
    return getattr(transformers, f"{family}EncoderModel")(
        getattr(transformers, f"{family}Config")(
            vocab_size=config.vocab,
            d_model=config.width,
            d_kv=config.head_dim,
            d_ff=config.ffn,
            num_layers=config.depth,
            num_heads=config.heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0,
        )
    )


def _run_text(network, case, given):
    hidden = network(given["ids"].long(), attention_mask=given["mask"]).last_hidden_state
    return hidden * given["mask"][:, :, None]  # as the pipelines do


def _image(config: ImageConfig):
    import transformers

    return transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.ffn,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            image_size=config.side,
            patch_size=config.patch,
            hidden_act=config.activation,
        )
    )


def _run_image(network, case, given):
    import torch

    normal = (case.inputs["pixels"] - np.float32(case.config.mean)) / np.float32(case.config.std)
    pixels = torch.from_numpy(np.moveaxis(normal, -1, 1).copy())
    return network(pixels, output_hidden_states=True).hidden_states[-2]


_BUILT: dict[type, Callable] = {
    DiTConfig: _dit,
    VAEConfig: _vae,
    TextConfig: _text,
    ImageConfig: _image,
}
_RUN: dict[type, Callable] = {
    DiTConfig: run_dit,
    VAEConfig: _run_vae,
    TextConfig: _run_text,
    ImageConfig: _run_image,
}


def dit_case(
    config: DiTConfig, t: Any, words: int = 7, batch: int = 2, frames: int = 3, **shapes: tuple
) -> Case:
    inputs = {
        "latents": drawn("latents", batch, frames, 4, 6, 4),
        "t": np.asarray(t, np.float32),
        "text": drawn("text", batch, words, 16),
    }
    return Case(config, inputs | {k: drawn(k, batch, *shape) for k, shape in shapes.items()})


def case_of(config: DiTConfig) -> Case:
    """With all that a transformer takes."""
    shapes: dict[str, tuple] = {}
    if config.in_channels > config.out_channels:
        shapes["channels"] = (3, 4, 6, config.in_channels - config.out_channels)
    if config.image_width:
        shapes["image"] = (config.image_tokens or 5, config.image_width)
    if config.control_channels:
        shapes["control"] = (3, 4, 6, config.control_channels)
    case = dit_case(config, _T, 512 if config.image_width else 7, **shapes)
    return _with(case, frame_rate=np.array([0, 1])) if config.frame_rates else case


def _with(case: Case, **inputs: np.ndarray) -> Case:
    return dataclasses.replace(case, inputs=dict(case.inputs) | inputs)


def _vae_cases(name: str, config: VAEConfig) -> dict[str, Case]:
    side = 2 * config.spatial_ratio
    video = np.tanh(drawn("video", 1, 9, side, side, 3))
    latents = drawn("z", 1, 3, 2, 2, config.z_dim)
    found = {}
    for frames, stream in ((1, ""), (9, ""), (5, "_stream")):
        encode = Case(config, {"video": video[:, :frames]}, f"encode{stream}")
        decode = Case(config, {"latents": latents[:, : 1 + frames // 4]}, f"decode{stream}")
        found |= {f"{name}, {case.method} {frames}": case for case in (encode, decode)}
    return found


_T = (0.3, 0.8)
_PER_TOKEN = np.array([0, 0.5, 0.8], np.float32)[None, :, None, None] * np.ones((2, 3, 4, 6))
_PER_FRAME = [[0, 0.3, 0.8]]
_IDS = {
    "ids": np.random.RandomState(0).randint(1, 128, (2, 9)).astype(np.int32),
    "mask": np.arange(9)[None] < np.array([[9], [4]]),
}

CASES: dict[str, Case] = {
    "t2v": dit_case(WAN, _T),
    "ti2v": dit_case(WAN, _PER_TOKEN),
    "i2v": dit_case(I2V, _T, 512, channels=(3, 4, 6, 8), image=(5, 20)),
    "flf2v": dit_case(
        dataclasses.replace(I2V, image_tokens=10),
        _T,
        512,
        channels=(3, 4, 6, 8),
        image=(10, 20),
    ),
    # Of what is nearly gray, so that what is added to its variance shows. The GELU is exact.
    "i2v, tokens of images": Case(
        I2V, {"image": 0.01 * drawn("gray", 2, 5, 20)}, "image_embed", tolerance=1e-5
    ),
    "i2v a14b": dit_case(dataclasses.replace(I2V, image_width=None), _T, channels=(3, 4, 6, 8)),
    "vace": dit_case(VACE, _T, control=(3, 4, 6, 6)),
    "vace, control of two frames": dit_case(VACE, _T, control=(2, 4, 6, 6)),
    "vace, unevenly": dit_case(dataclasses.replace(VACE, depth=3), _T, control=(3, 4, 6, 6)),
    "skyreels": _with(dit_case(SKYREELS, _T), frame_rate=np.array([0, 1])),
    "skyreels df": _with(dit_case(SKYREELS, _PER_FRAME, batch=1), frame_rate=np.array([1])),
    "skyreels df, in blocks": dit_case(
        dataclasses.replace(WAN, frame_block=2), [[0, 0.3, 0.3, 0.8]], batch=1, frames=4
    ),
    **_vae_cases("wan2.1", WAN21),
    **_vae_cases("wan2.2", WAN22),
    "umt5": Case(UMT5, _IDS),
    "t5": Case(dataclasses.replace(UMT5, per_layer_bias=False), _IDS),
    "clip": Case(CLIP, {"pixels": 1 / (1 + np.exp(drawn("pixels", 2, 15, 15, 3)))}, tolerance=1e-5),
}
