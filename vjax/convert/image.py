"""CLIP's vision encoder, as transformers names its layers."""

from vjax.config import ImageConfig

PREFIX = "vision_model."  # which newer files do without
_LAYER = {
    "layer_norm1": "attention_norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "o",
    "layer_norm2": "ffn_norm",
    "mlp.fc1": "up",
    "mlp.fc2": "down",
}
NAMES = {
    "embeddings.patch_embedding": "patch_embed",
    "embeddings.class_embedding": "class_embed",
    "embeddings.position_embedding.weight": "positions",
    "pre_layrnorm": "norm_in",
    **{f"encoder.layers.*.{theirs}": f"layers.{ours}" for theirs, ours in _LAYER.items()},
}
TURNS = {r"^patch_embed\.kernel$": "o c h w -> (c h w) o"}


def unused(config: ImageConfig) -> tuple[str, ...]:
    """What comes after the tokens that are read, and the numbers of positions."""
    last = rf"^encoder\.layers\.{config.depth - 1}\."
    return (last, r"^post_layernorm\.", r"^visual_projection\.", r"^embeddings\.position_ids$")


def lengths(config: ImageConfig) -> dict[str, int]:
    return {"h": config.patch, "w": config.patch}
