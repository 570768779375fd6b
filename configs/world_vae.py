"""The VAE of the default model, on the captioned world.

    python -m vjax.train configs/world_vae.py

About 25 minutes on three cores: PSNR of held-out clips 34 dB and more.
"""

from vjax.config import (
    Bucket,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
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
        data=DataConfig(
            buckets=(
                Bucket(frames=9, height=96, width=96, crop=64, batch=8, weight=0.85),
                Bucket(frames=33, height=96, width=96, crop=64, batch=2, weight=0.15),
            ),
        ),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=2e-3, warmup=40, ema=0.995, decay_from=0.3
        ),
        vae_loss=VAELossConfig(kl=0.0, squared=5.0, equivariance=0.0),
        steps=900,
        log_every=50,
        checkpoint_every=100,
        sample_every=200,
    )
