"""Wan's transformer, and those made from it, as diffusers names their layers."""

from vjax.config import DiTConfig

_BLOCK = {
    "attn1.to_q": "self_attention.q",
    "attn1.to_k": "self_attention.k",
    "attn1.to_v": "self_attention.v",
    "attn1.to_out.0": "self_attention.o",
    "attn1.norm_q": "self_attention.q_norm",
    "attn1.norm_k": "self_attention.k_norm",
    "attn2.to_q": "cross_attention.q",
    "attn2.to_k": "cross_attention.k",
    "attn2.to_v": "cross_attention.v",
    "attn2.to_out.0": "cross_attention.o",
    "attn2.norm_q": "cross_attention.q_norm",
    "attn2.norm_k": "cross_attention.k_norm",
    "attn2.add_k_proj": "cross_attention.image_k",
    "attn2.add_v_proj": "cross_attention.image_v",
    "attn2.norm_added_k": "cross_attention.image_k_norm",
    "norm2": "cross_norm",
    "ffn.net.0.proj": "ffn.up",
    "ffn.net.2": "ffn.down",
    "scale_shift_table": "modulation",
}
NAMES = {
    "patch_embedding": "patch_embed",
    "condition_embedder.time_embedder.linear_1": "time_embed.up",
    "condition_embedder.time_embedder.linear_2": "time_embed.down",
    "condition_embedder.time_proj": "time_projection",
    "condition_embedder.text_embedder.linear_1": "text_embed.up",
    "condition_embedder.text_embedder.linear_2": "text_embed.down",
    **{f"blocks.*.{theirs}": f"blocks.{ours}" for theirs, ours in _BLOCK.items()},
    "scale_shift_table": "head_modulation",
    "proj_out": "head",
    # Images that blocks attend to (I2V, FLF2V).
    "condition_embedder.image_embedder.pos_embed": "image_embed.positions",
    "condition_embedder.image_embedder.norm1": "image_embed.norm_in",
    "condition_embedder.image_embedder.ff.net.0.proj": "image_embed.mlp.up",
    "condition_embedder.image_embedder.ff.net.2": "image_embed.mlp.down",
    "condition_embedder.image_embedder.norm2": "image_embed.norm_out",
    # The control branch (VACE).
    "vace_patch_embedding": "control_patch_embed",
    "vace_blocks.0.proj_in": "control_in",
    **{f"vace_blocks.*.{theirs}": f"control_blocks.{ours}" for theirs, ours in _BLOCK.items()},
    "vace_blocks.*.proj_out": "control_blocks.hint",
    # Frame rates (SkyReels-V2).
    "fps_embedding.weight": "rate_embed",
    "fps_projection.net.0.proj": "rate_projection.up",
    "fps_projection.net.2": "rate_projection.down",
}
# How Wan's own code and SkyReels' name the same layers and parameters, which LoRA files follow.
_ORIGINAL_BLOCK = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
ORIGINAL = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    **{f"blocks.*.{theirs}": f"blocks.*.{ours}" for theirs, ours in _ORIGINAL_BLOCK.items()},
    "head.modulation": "scale_shift_table",
    "head.head": "proj_out",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    **{
        f"vace_blocks.*.{theirs}": f"vace_blocks.*.{ours}"
        for theirs, ours in _ORIGINAL_BLOCK.items()
    },
    "vace_blocks.0.before_proj": "vace_blocks.0.proj_in",
    "vace_blocks.*.after_proj": "vace_blocks.*.proj_out",
    "fps_projection.0": "fps_projection.net.0.proj",
    "fps_projection.2": "fps_projection.net.2",
}
TURNS = {r"patch_embed\.kernel$": "o c t h w -> (c t h w) o"}
UNUSED = (r"\.norm_added_q\.",)  # checkpoints have it, the published network does not


def lengths(config: DiTConfig) -> dict[str, int]:
    return dict(zip("thw", config.patch, strict=True))
