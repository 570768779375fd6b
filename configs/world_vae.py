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
                z_dim=48,
                dim_mult=(1, 2, 2),
                num_res_blocks=1,
                temporal_downsample=(True, True),
                patch_size=4,
                mid_attention=False,
                residual=True,
            ),
            fps=16,
            frames=33,
            height=96,
            width=96,
            max_frames=65,
        ),
        data=DataConfig(
            buckets=(
                Bucket(frames=9, height=96, width=96, crop=64, batch=8, weight=0.75),
                Bucket(frames=33, height=96, width=96, crop=64, batch=2, weight=0.25),
            ),
        ),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=5e-3, warmup=40, ema=0.998, decay_from=0.5
        ),
        vae_loss=VAELossConfig(kl=1e-3, squared=5.0, equivariance=0.1),
        steps=900,
        log_every=50,
        checkpoint_every=300,
        sample_every=300,
    )
