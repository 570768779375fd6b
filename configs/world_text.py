"""The text encoder of the default model learns the words of captions before it meets the DiT.

python -m vjax.train configs/world_text.py
"""

from vjax import world
from vjax.config import Bucket, DataConfig, ModelConfig, OptimizerConfig, RunConfig, TextConfig


def get_config() -> RunConfig:
    return RunConfig(
        name="world_text",
        trains="text",
        model=ModelConfig(
            name="world_text",
            text=TextConfig(
                vocab=259,
                width=128,
                depth=2,
                heads=2,
                head_dim=64,
                ffn=384,
                max_length=160,
            ),
            vocabulary=tuple(sorted(world.vocabulary())),
        ),
        data=DataConfig(
            # Only the captions count; they come with clips, so these are as small as they can be.
            buckets=(Bucket(frames=1, height=64, width=64, batch=64),),
        ),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=3e-3, warmup=20, ema=0.99, decay_from=0.5
        ),
        steps=600,
        log_every=50,
        checkpoint_every=200,
        sample_every=600,
    )
