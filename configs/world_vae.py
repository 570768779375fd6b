"""The VAE of the default model, on the captioned world.

    python -m vjax.train configs/world_vae.py

About 26 minutes on two cores: PSNR of held-out clips 29 dB.
"""

from vjax.config import (
    Bucket,
    Group,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    Stage,
    VAEConfig,
    VAELossConfig,
)


def get_config() -> RunConfig:
    return RunConfig(
        name="world_vae",
        trains="vae",
        model=ModelConfig(
            name="world_vae",
            vae=VAEConfig(
                base_dim=24,
                decoder_base_dim=32,
                z_dim=16,
                dim_mult=(1, 2, 2),
                num_res_blocks=1,
                temporal_downsample=(True, True),
                spatial_downsample=(True, False),
                patch_size=4,
                mid_attention=False,
            ),
            fps=16,
            frames=33,
            height=96,
            width=96,
            max_frames=65,
        ),
        stages=(
            Stage(
                groups=(
                    Group((Bucket(frames=9, height=96, width=96, crop=64, batch=8),), share=0.74),
                    # Without long clips it drifts after the ninth frame.
                    Group((Bucket(frames=33, height=96, width=96, crop=64, batch=8),), share=0.08),
                    Group((Bucket(frames=1, height=96, width=96, batch=24),), share=0.18),
                ),
                steps=2100,
                learning_rate=3e-3,
                warmup=40,
                decay_from=0.45,
                ema=0.995,
            ),
        ),
        optimizer=OptimizerConfig(name="muon"),
        vae_loss=VAELossConfig(kl=5e-3, squared=5.0, equivariance=0.0),
        log_every=50,
        checkpoint_every=100,
        sample_every=200,
    )
