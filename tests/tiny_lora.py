"""LoRA files for tiny models: the same change as different trainers and tools write it."""

import pathlib
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import save_file

from vjax import convert

# By our table's names, and by Wan's own.
LAYERS = {
    "blocks.0.attn1.to_q": "blocks.0.self_attn.q",
    "blocks.1.attn1.to_out.0": "blocks.1.self_attn.o",
    "blocks.0.attn2.to_k": "blocks.0.cross_attn.k",
    "blocks.1.ffn.net.0.proj": "blocks.1.ffn.0",
    "blocks.0.ffn.net.2": "blocks.0.ffn.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "proj_out": "head.head",
}
IMAGES = {
    "blocks.1.attn2.add_k_proj": "blocks.1.cross_attn.k_img",
    "blocks.0.attn2.add_v_proj": "blocks.0.cross_attn.v_img",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
}
RANK = 3


def shapes(config) -> dict[str, tuple[int, ...]]:
    sources = convert.sources(config, own=True).values()
    return {name: source.shape for source in sources for name in source.names}


def matrices(config, layers=LAYERS, rank: int = RANK, seed: int = 0) -> dict:
    """Of each layer its two matrices, `down` and `up`."""
    rng, found = np.random.default_rng(seed), {}
    for layer in layers:
        out, *inputs = shapes(config)[f"{layer}.weight"]
        down = rng.normal(size=(rank, int(np.prod(inputs)))).astype(np.float32)
        up = rng.normal(size=(out, rank)).astype(np.float32) / 8
        found[layer] = down, up
    return found


def written(file: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata=None) -> str:
    arrays = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    # A contiguous copy of a number is no longer one.
    arrays = {name: x.reshape(np.shape(tensors[name])) for name, x in arrays.items()}
    save_file(arrays, file, metadata)
    return str(file)


def styled(made: Mapping, pattern: str, names=LAYERS, parts=("lora_A", "lora_B"), leaf=".weight"):
    """Matrices under the names of a style: `pattern` with the layer in it."""
    found = {}
    for layer, (down, up) in made.items():
        place = pattern.format(diffusers=layer, original=names[layer])
        for part, x in zip(parts, (down, up), strict=True):
            found[f"{place}.{part}{leaf}"] = x
    return found


def kohya(made: Mapping, names=LAYERS, alpha=None, rank: int = RANK) -> dict[str, np.ndarray]:
    found = {}
    for layer, (down, up) in made.items():
        place = "lora_unet_" + names[layer].replace(".", "_")
        found |= {f"{place}.lora_down.weight": down, f"{place}.lora_up.weight": up}
        found[f"{place}.alpha"] = np.float32(rank if alpha is None else alpha)
    return found
