"""Floating-point operations of the networks, counted by hand: two for each multiply-add."""

from vjax.config import Bucket, DiTConfig, RunConfig, TextConfig


def dit_flops(config: DiTConfig, tokens: int, text_tokens: int) -> int:
    """Forward FLOPs of one sample: matrix products and attention, nothing elementwise."""
    d, inner = config.width, config.heads * config.head_dim
    per_token = 2 * d * (4 * inner + 2 * inner + 2 * config.ffn)
    attention = 4 * tokens * (tokens + text_tokens) * inner
    text = text_tokens * 4 * d * inner
    patch = config.patch[1] * config.patch[2] * (config.in_channels + config.out_channels)
    embed = 2 * tokens * d * patch + 2 * text_tokens * d * (config.text_width + d)
    return config.depth * (tokens * per_token + attention + text) + embed


def text_flops(config: TextConfig, tokens: int) -> int:
    """Forward FLOPs of one text."""
    inner = config.heads * config.head_dim
    per_token = 2 * config.width * (4 * inner + 3 * config.ffn)
    return config.depth * (tokens * per_token + 4 * tokens * tokens * inner)


def train_flops(config: RunConfig, bucket: Bucket) -> int:
    """FLOPs of one training step's DiT and text encoder, forward and backward.

    Recomputation and the encoding of clips are not counted, nor are the steps of a VAE.
    """
    model = config.model
    if config.trains != "dit":
        return 0
    ratio, (_, ph, pw) = model.vae.spatial_ratio, model.dit.patch
    frames = 1 + (bucket.frames - 1) // model.vae.temporal_ratio + bucket.anchors
    tokens = frames * (bucket.height // ratio // ph) * (bucket.width // ratio // pw)
    text_tokens = model.text.max_length
    samples = bucket.batch * config.dit_loss.noises
    dit = samples * dit_flops(model.dit, tokens, text_tokens)
    return 3 * (dit + bucket.batch * text_flops(model.text, text_tokens))
