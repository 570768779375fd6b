"""The shape of Wan 2.1 1.3B, to plan with, and to train once its weights are at hand.

python -m vjax.plan configs/wan_1_3b.py --slice v5e:1x1 --sample
python -m vjax.plan configs/wan_1_3b.py --sample --search --slice v5e
python -m vjax.plan configs/wan_1_3b.py --slice v5p:2x2x2
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
    return RunConfig(
        name="wan_1_3b",
        trains="dit",
        model=ModelConfig(
            name="wan_1_3b",
            dit=DiTConfig(),
            vae=VAEConfig(),
            text=TextConfig(),
            sampler=SamplerConfig(solver="unipc", steps=50, guidance=5.0, shift=5.0),
        ),
        stages=(
            Stage(
                groups=(Group((Bucket(frames=81, height=480, width=832, batch=8),)),),
                steps=10_000,
                learning_rate=2e-5,
                warmup=1000,
                ema=0.9999,
            ),
        ),
        optimizer=OptimizerConfig(name="adamw", b2=0.95, weight_decay=0.01),
        frozen=("text",),
        mesh=MeshConfig(fsdp=8),
    )
