"""The DiT and text encoder of the default model, on the captioned world.

    python -m vjax.train configs/world_dit.py --vae=runs/world_vae/bundle

Three stages on two cores: pictures (about 40 minutes), pictures and clips together (about 190),
and the fall of the rate (about 85). `--steps=300` shows in a few minutes whether it learns: colours
come first.
"""

from vjax import weights, world
from vjax.config import (
    Bucket,
    DiTConfig,
    DiTLossConfig,
    Group,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SamplerConfig,
    Stage,
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


def picture(height: int, width: int, batch: int = 24) -> Bucket:
    """Pictures: what a shape is gets decided where there is much noise."""
    return Bucket(frames=1, height=height, width=width, batch=batch, time_mean=1.6)


def clip(frames: int, height: int, width: int, batch: int, **known) -> Bucket:
    """Clips repeat themselves from frame to frame, so more noise hides as much of them."""
    mean = 2.2 if frames < 33 else 2.4
    return Bucket(frames=frames, height=height, width=width, batch=batch, time_mean=mean, **known)


# Every update has pictures too. Small clips cost little and teach motion as well. What a request
# can know is known in training: the first frame or a prefix everywhere, later frames (anchors),
# what lies outside a region (boxes), and what an earlier window of a long video left (lead).
CLIPS = (
    Group((picture(96, 96), clip(17, 96, 96, batch=24)), share=0.27),
    Group((picture(96, 96), clip(17, 64, 64, batch=56)), share=0.27),
    Group((picture(96, 96), clip(33, 96, 96, batch=16)), share=0.13),
    Group((picture(96, 96), clip(33, 96, 96, batch=16, anchors=2)), share=0.09),
    Group((picture(96, 96), clip(33, 96, 96, batch=16, lead=4)), share=0.05),
    Group((picture(96, 96), clip(17, 96, 96, batch=24, boxes=True)), share=0.05),
    Group((picture(80, 128), clip(17, 80, 128, batch=24)), share=0.07),
    Group((picture(128, 80), clip(17, 128, 80, batch=24)), share=0.07),
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
            sampler=SamplerConfig(solver="stochastic", steps=24, guidance=3.0, shift=3.0),
            vocabulary=tuple(sorted(world.vocabulary())),
        ),
        stages=(
            # What things look like, from many captions an update.
            Stage(
                groups=(Group((picture(96, 96, batch=64),)),),
                steps=3000,
                learning_rate=3e-3,
                ema=0.998,
            ),
            # How they move. A fresh optimizer from the average is ahead of going on.
            Stage(
                groups=CLIPS,
                steps=3500,
                learning_rate=3e-3,
                ema=0.998,
                restart=True,
                one_thing=0.75,
            ),
            Stage(
                groups=CLIPS,
                steps=1500,
                learning_rate=2e-3,
                decay_from=0.5,
                ema=0.997,
                restart=True,
                one_thing=0.75,
            ),
        ),
        optimizer=OptimizerConfig(name="muon"),
        dit_loss=DiTLossConfig(known_noise=0.05),
        tokenizer=str(weights.ASSETS / "default" / "tokenizer.json"),
        log_every=50,
        checkpoint_every=200,
        sample_every=1000,
        sample_prompts=PROMPTS,
    )
