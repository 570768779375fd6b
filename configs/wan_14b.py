"""The shape of Wan 2.1 14B, to plan with, and to train once its weights are at hand.

python -m vjax.plan configs/wan_14b.py --slice v5p:4x4x4
python -m vjax.plan configs/wan_14b.py --slice v6e:2x4 --sample
"""

from vjax.config import (
    Bucket,
    DiTConfig,
    Group,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SamplerConfig,
    Stage,
    TextConfig,
    VAEConfig,
)


def get_config() -> RunConfig:
    small = Bucket(frames=81, height=480, width=832, batch=32)
    large = Bucket(frames=81, height=720, width=1280, batch=16)
    return RunConfig(
        name="wan_14b",
        trains="dit",
        model=ModelConfig(
            name="wan_14b",
            dit=DiTConfig(width=5120, depth=40, heads=40, ffn=13_824),
            vae=VAEConfig(),
            text=TextConfig(),
            height=720,
            width=1280,
            sampler=SamplerConfig(solver="unipc", steps=50, guidance=5.0, shift=5.0),
        ),
        stages=(
            Stage(
                groups=(Group((small, large)),),
                steps=10_000,
                learning_rate=1e-5,
                warmup=1000,
                ema=0.9999,
            ),
        ),
        optimizer=OptimizerConfig(name="adamw", b2=0.95, weight_decay=0.01),
        frozen=("text",),
        mesh=MeshConfig(fsdp=16, context=4),
    )
