"""The encoders of T5 and UMT5, as transformers names their layers."""

from vjax.config import TextConfig

_LAYER = {
    "layer.0.layer_norm": "attention_norm",
    "layer.0.SelfAttention.q": "q",
    "layer.0.SelfAttention.k": "k",
    "layer.0.SelfAttention.v": "v",
    "layer.0.SelfAttention.o": "o",
    "layer.1.layer_norm": "ffn_norm",
    "layer.1.DenseReluDense.wi_0": "gate",
    "layer.1.DenseReluDense.wi_1": "up",
    "layer.1.DenseReluDense.wo": "down",
}
_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
ALIASES = {"encoder.embed_tokens.weight": "shared.weight"}


def names(config: TextConfig) -> dict[str, str]:
    """The published name of each layer and parameter, and ours."""
    bias = (
        {f"encoder.block.*.{_BIAS}": "layers.relative_bias"}
        if config.per_layer_bias
        else {f"encoder.block.0.{_BIAS}": "relative_bias"}
    )
    layers = {f"encoder.block.*.{theirs}": f"layers.{ours}" for theirs, ours in _LAYER.items()}
    return {
        "shared.weight": "embedding",
        **layers,
        **bias,
        "encoder.final_layer_norm": "norm",
    }
