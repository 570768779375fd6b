"""Wan as diffusers has it, with random weights."""

import contextlib
import string
from typing import Any

from vjax.config import DiTConfig, ModelConfig, TextConfig, VAEConfig


def wan_pipeline(model: ModelConfig, device: str, dtype: str) -> Any:
    """A `WanPipeline` of a plain text-to-video model on a device of torch, its VAE in float32."""
    import torch
    from diffusers import UniPCMultistepScheduler, WanPipeline

    torch.manual_seed(0)
    with torch.device(device):
        vae = _vae(model.vae)
        with _default_dtype(getattr(torch, dtype)):
            dit, text = _transformer(model.dit), _text_encoder(model.text)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=model.sampler.shift
    )
    pipe = WanPipeline(_tokenizer(model.text), text.eval(), vae.eval(), scheduler, dit.eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@contextlib.contextmanager
def _default_dtype(dtype):
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _transformer(config: DiTConfig) -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=config.patch,
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        text_dim=config.text_width,
        freq_dim=config.frequency_dim,
        ffn_dim=config.ffn,
        num_layers=config.depth,
        eps=config.eps,
    )


def _vae(config: VAEConfig) -> Any:
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=config.base_dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
        latents_mean=list(config.latents_mean) or [0.0] * config.z_dim,
        latents_std=list(config.latents_std) or [1.0] * config.z_dim,
    )


def _text_encoder(config: TextConfig) -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=config.vocab,
            d_model=config.width,
            d_kv=config.head_dim,
            d_ff=config.ffn,
            num_layers=config.depth,
            num_heads=config.heads,
            relative_attention_num_buckets=config.relative_buckets,
            relative_attention_max_distance=config.relative_max_distance,
            feed_forward_proj="gated-gelu",
            layer_norm_epsilon=config.eps,
            dropout_rate=0,
        )
    )


def _tokenizer(config: TextConfig) -> Any:
    """A token for each letter, and one that ends a text."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["<pad>", "</s>", "<unk>", *string.ascii_lowercase, " "]
    rules = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, "<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    rules.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=rules,
        model_max_length=config.max_length,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
