"""The networks of the Wan family against diffusers' and transformers', on tiny random weights."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from vjax import models
from vjax.config import DiTConfig, ImageConfig

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
    "rope_max_seq_len": 32,
}
OURS = {
    "width": 24,
    "depth": 2,
    "heads": 2,
    "head_dim": 12,
    "ffn": 32,
    "in_channels": 4,
    "out_channels": 4,
    "text_width": 16,
}
NAMES = {
    "patch_embedding": "patch_embed",
    "condition_embedder.time_embedder.linear_1": "time_embed.up",
    "condition_embedder.time_embedder.linear_2": "time_embed.down",
    "condition_embedder.time_proj": "time_projection",
    "condition_embedder.text_embedder.linear_1": "text_embed.up",
    "condition_embedder.text_embedder.linear_2": "text_embed.down",
    "condition_embedder.image_embedder.pos_embed": "image_embed.positions",
    "condition_embedder.image_embedder.norm1": "image_embed.norm_in",
    "condition_embedder.image_embedder.ff.net.0.proj": "image_embed.mlp.up",
    "condition_embedder.image_embedder.ff.net.2": "image_embed.mlp.down",
    "condition_embedder.image_embedder.norm2": "image_embed.norm_out",
    "fps_embedding": "rate_embed",
    "fps_projection.net.0.proj": "rate_projection.up",
    "fps_projection.net.2": "rate_projection.down",
    "vace_patch_embedding": "control_patch_embed",
    "vace_blocks.proj_in": "control_in",
    "vace_blocks.proj_out": "control_blocks.hint",
    "blocks.attn1.to_q": "blocks.self_attention.q",
    "blocks.attn1.to_k": "blocks.self_attention.k",
    "blocks.attn1.to_v": "blocks.self_attention.v",
    "blocks.attn1.to_out.0": "blocks.self_attention.o",
    "blocks.attn1.norm_q": "blocks.self_attention.q_norm",
    "blocks.attn1.norm_k": "blocks.self_attention.k_norm",
    "blocks.attn2.to_q": "blocks.cross_attention.q",
    "blocks.attn2.to_k": "blocks.cross_attention.k",
    "blocks.attn2.to_v": "blocks.cross_attention.v",
    "blocks.attn2.to_out.0": "blocks.cross_attention.o",
    "blocks.attn2.norm_q": "blocks.cross_attention.q_norm",
    "blocks.attn2.norm_k": "blocks.cross_attention.k_norm",
    "blocks.attn2.add_k_proj": "blocks.cross_attention.image_k",
    "blocks.attn2.add_v_proj": "blocks.cross_attention.image_v",
    "blocks.attn2.norm_added_k": "blocks.cross_attention.image_k_norm",
    "blocks.norm2": "blocks.cross_norm",
    "blocks.ffn.net.0.proj": "blocks.ffn.up",
    "blocks.ffn.net.2": "blocks.ffn.down",
    "blocks.scale_shift_table": "blocks.modulation",
    "scale_shift_table": "head_modulation",
    "proj_out": "head",
}


def random_weights(network):
    """The network with every parameter drawn, so that zeros and ones hide nothing."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            drawn = torch.randn(value.shape, generator=generator)
            fan_in = value[0].numel() if value.ndim > 1 else 25
            value.copy_(
                1 + 0.1 * drawn if "norm" in name and "weight" in name else drawn / fan_in**0.5
            )
    return network.eval()


def dit_params(state):
    found = {}
    for name, value in state.items():
        generic = re.sub(r"blocks\.\d+", "blocks", name)
        found.setdefault(generic, []).append(value.numpy())
    params = {}
    for name, layers in found.items():
        module, leaf = re.fullmatch(r"(.*?)(\.weight|\.bias)?", name).groups()
        ours = NAMES.get(module) or "control_" + NAMES[module.removeprefix("vace_")]
        if leaf == ".weight":
            leaf = "" if ours == "rate_embed" else ".scale" if "norm" in module else ".kernel"
        if leaf == ".kernel":
            layers = [rearrange(x, "o ... -> (...) o") for x in layers]
        *path, last = (ours + (leaf or "")).split(".")
        node = params
        for part in path:
            node = node.setdefault(part, {})
        stacked = ours.startswith(("blocks", "control_blocks"))
        node[last] = np.stack(layers) if stacked else layers[0]
    return params


@functools.partial(jax.jit, static_argnums=0)
def velocity(config, params, latents, t, text, **known):
    positions = jnp.arange(latents.shape[1], dtype=jnp.float32)
    return models.bind(config, params)(latents, t, text, positions=positions, **known)


def drawn(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def theirs(x):
    """Video as torch has it: channels before time."""
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy()) if x.ndim == 5 else torch.from_numpy(x)


def close(found, expected, tolerance=1e-4):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("images", [1, 2])
def test_i2v(images):
    tokens = 5 * images
    network = diffusers.WanTransformer3DModel(
        **WAN | {"in_channels": 12},
        image_dim=20,
        added_kv_proj_dim=24,
        pos_embed_seq_len=tokens if images == 2 else None,
    )
    random_weights(network)
    config = DiTConfig(
        **OURS | {"in_channels": 12},
        image_width=20,
        image_tokens=tokens if images == 2 else None,
    )
    latents, channels = drawn(2, 3, 4, 6, 4), drawn(2, 3, 4, 6, 8, seed=2)
    text, image, t = drawn(2, 512, 16), drawn(2, tokens, 20), np.float32([0.3, 0.8])
    with torch.no_grad():
        (expected,) = network(
            theirs(np.concatenate([latents, channels], -1)),
            1000 * torch.from_numpy(t),
            torch.from_numpy(text),
            rearrange(torch.from_numpy(image), "b (i n) d -> (b i) n d", i=images),
            return_dict=False,
        )
    params = dit_params(network.state_dict())
    found = velocity(config, params, latents, t, text, channels=channels, image=image)
    close(found, np.moveaxis(expected.numpy(), 1, -1))


@pytest.mark.parametrize(
    ("depth", "layers", "frames"), [(4, (0, 2), 3), (3, (0, 2), 3), (2, (0,), 2), (2, (0, 1), 3)]
)
def test_vace(depth, layers, frames):
    network = diffusers.WanVACETransformer3DModel(
        **WAN | {"num_layers": depth}, vace_layers=list(layers), vace_in_channels=6
    )
    random_weights(network)
    config = DiTConfig(**OURS | {"depth": depth}, control_channels=6, control_blocks=layers)
    latents, control = drawn(2, 3, 4, 6, 4), drawn(2, frames, 4, 6, 6, seed=2)
    text, t = drawn(2, 7, 16), np.float32([0.3, 0.8])
    with torch.no_grad():
        (expected,) = network(
            theirs(latents),
            1000 * torch.from_numpy(t),
            torch.from_numpy(text),
            control_hidden_states=theirs(control),
            return_dict=False,
        )
    found = velocity(config, dit_params(network.state_dict()), latents, t, text, control=control)
    close(found, np.moveaxis(expected.numpy(), 1, -1))


@pytest.mark.parametrize("rate", [0, 1])
def test_skyreels(rate):
    network = diffusers.SkyReelsV2Transformer3DModel(**WAN, inject_sample_info=True)
    random_weights(network)
    config = DiTConfig(**OURS, frame_rates=(16, 24))
    latents, text, t = drawn(1, 3, 4, 6, 4), drawn(1, 7, 16), np.float32([[0, 0.3, 0.8]])
    with torch.no_grad():
        (expected,) = network(
            theirs(latents),
            1000 * torch.from_numpy(t),
            torch.from_numpy(text),
            enable_diffusion_forcing=True,
            fps=[rate],
            return_dict=False,
        )
    params = dit_params(network.state_dict())
    found = velocity(config, params, latents, t, text, frame_rate=np.array([rate]))
    close(found, np.moveaxis(expected.numpy(), 1, -1))


IMAGE = {
    "embeddings.class_embedding": "class_embed",
    "embeddings.patch_embedding.weight": "patch_embed.kernel",
    "embeddings.position_embedding.weight": "positions",
    "pre_layrnorm": "norm_in",
    "layer_norm1": "attention_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "o",
    "layer_norm2": "ffn_norm",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
}


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_clip(activation):
    network = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=15,
            patch_size=4,
            hidden_act=activation,
        )
    )
    random_weights(network)
    config = ImageConfig(
        width=24, depth=3, heads=2, ffn=40, patch=4, side=15, activation=activation
    )
    pixels = np.random.default_rng(1).uniform(size=(2, 15, 15, 3)).astype(np.float32)
    normal = (pixels - np.float32(config.mean)) / np.float32(config.std)
    with torch.no_grad():
        expected = network(
            torch.from_numpy(np.moveaxis(normal, -1, 1)), output_hidden_states=True
        ).hidden_states[-2]
    found = jax.jit(lambda params, x: models.bind(config, params)(x))(
        image_params(network.state_dict(), config), pixels
    )
    close(found, expected)


def image_params(state, config):
    params = {"layers": {}}
    state = {k.removeprefix("vision_model."): v.numpy() for k, v in state.items()}

    def put(node, path, value):
        *path, last = path.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value

    for name in list(state):
        if name.startswith("post_layernorm") or f"layers.{config.depth - 1}." in name:
            continue
        x = state[name]
        if "layers." in name:
            if ".0." not in name:
                continue
            x = np.stack([state[name.replace(".0.", f".{i}.")] for i in range(config.depth - 1)])
            name = name.split(".0.")[1]
        if name in IMAGE:
            if "patch" in name:
                x = rearrange(x, "o ... -> (...) o")
            put(params, IMAGE[name], x)
            continue
        module, leaf = name.rsplit(".", 1)
        if leaf == "weight":
            leaf = "scale" if "norm" in module else "kernel"
        if leaf == "kernel":
            x = np.moveaxis(x, -1, -2)
        put(params if module == "pre_layrnorm" else params["layers"], f"{IMAGE[module]}.{leaf}", x)
    return params
