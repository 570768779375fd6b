"""The DiT and text encoder of the default model, on the captioned world.

python -m vjax.train configs/world_dit.py --vae=runs/world_vae/bundle
"""

from vjax import weights, world
from vjax.config import (
    Bucket,
    DataConfig,
    DiTConfig,
    DiTLossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SamplerConfig,
    TextConfig,
)

PROMPTS = (
    "a red circle moves right on a black background",
    "a yellow star spins at night",
    "a green square to the left of a white triangle on grass",
    "a pink ring bounces in the sky",
    "a blue cross grows at sunset",
    "an orange triangle circles around on gray",
)


def get_config() -> RunConfig:
    return RunConfig(
        name="world_dit",
        trains="dit",
        model=ModelConfig(
            name="default",
            dit=DiTConfig(
                width=256,
                depth=6,
                heads=4,
                head_dim=64,
                ffn=1024,
                in_channels=16,
                out_channels=16,
                patch=(1, 2, 2),
                rope_theta=100.0,  # the grids are small
                text_width=128,
                anchors=True,
                remat=False,
            ),
            text=TextConfig(
                vocab=653,
                width=128,
                depth=2,
                heads=2,
                head_dim=64,
                ffn=384,
                max_length=36,
            ),
            fps=16,
            frames=33,
            height=96,
            width=96,
            max_frames=33,
            min_side=64,
            max_side=160,
            sampler=SamplerConfig(solver="unipc", steps=20, guidance=3.0, shift=3.0),
            vocabulary=tuple(sorted(world.vocabulary())),
        ),
        data=DataConfig(
            # Images teach what things look like at a fifth of the cost of the shortest clips.
            buckets=(
                Bucket(frames=1, height=96, width=96, batch=48, weight=0.32),
                Bucket(frames=1, height=80, width=128, batch=44, weight=0.08),
                Bucket(frames=1, height=128, width=80, batch=44, weight=0.08),
                Bucket(frames=17, height=96, width=96, batch=12, weight=0.21),
                Bucket(frames=17, height=80, width=128, batch=11, weight=0.05),
                Bucket(frames=17, height=128, width=80, batch=11, weight=0.05),
                Bucket(frames=33, height=96, width=96, batch=6, weight=0.13),
                Bucket(frames=33, height=96, width=96, batch=6, anchors=2, weight=0.05),
            ),
        ),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=3e-3, warmup=100, ema=0.999, decay_from=0.75
        ),
        dit_loss=DiTLossConfig(noises=2, known_noise=0.05, time_mean=1.8),
        tokenizer=str(weights.ASSETS / "default" / "tokenizer.json"),
        steps=12000,
        log_every=50,
        checkpoint_every=200,
        sample_every=1000,
        sample_prompts=PROMPTS,
    )
