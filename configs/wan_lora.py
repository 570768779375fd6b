"""A LoRA on a published model, whose networks the run reads as they are.

python -m vjax.train configs/wan_lora.py --init=Wan-AI/Wan2.1-T2V-1.3B-Diffusers \
    --data.source=tfds:CLIPS --data.directory=DIRECTORY
python -m vjax.sample --prompt "a prompt" --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers \
    --lora runs/wan_lora/lora

The clips have captions, and the frame rate of the model. Known frames, other ones of each clip, are
shown to the DiT as its sampler shows them; buckets for VACE may have `boxes` and `references`.
`--expert=low` trains the second expert of a model with two, as the file then says, and
`--lora=None` all of the DiT. A bundle is tuned in the same way. What is written is a file that
diffusers' `load_lora_weights` reads as well, or a bundle, which `vjax.export` writes as diffusers
reads it.

The batch of 8 is for eight devices; on one, `--mesh.fsdp=1` puts all clips of it there, eight times
the time of an update. How well the result follows its clips has not been measured.
"""

from vjax.config import (
    Bucket,
    Group,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    Stage,
)


def get_config() -> RunConfig:
    return RunConfig(
        name="wan_lora",
        trains="dit",
        model=ModelConfig(name="wan_lora"),  # that of --init
        lora=LoraConfig(rank=32, alpha=32.0),
        stages=(
            Stage(
                groups=(Group((Bucket(frames=33, height=480, width=832, batch=8),)),),
                steps=2000,
                learning_rate=1e-4,
                warmup=50,
                ema=0.99,
            ),
        ),
        optimizer=OptimizerConfig(name="adamw", b2=0.99),
        mesh=MeshConfig(fsdp=8),
    )
