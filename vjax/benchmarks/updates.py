"""The speed of a training update in figures that can be set beside others."""

from vjax.config import Group
from vjax.models.flops import encode_flops


def speed_of_update(task, group: Group, seconds: float) -> dict[str, float | str]:
    """The speed of an update on all buckets of a group."""
    flops = sum(task.flops(bucket) for bucket in group.buckets)
    found = {
        "train_seconds_per_update": seconds,
        "train_clips_per_second": sum(bucket.batch for bucket in group.buckets) / seconds,
        "train_model_gflops_per_second": flops / seconds / 1e9,
        "train_dtype": str(task.dtype),
    }
    if "vae" not in task.networks:  # clips are encoded on the way, which can be a fifth of it all
        vae = task.config.model.vae
        flops += sum(
            bucket.batch * encode_flops(vae, bucket.frames, *bucket.size)
            for bucket in group.buckets
        )
        found["train_gflops_per_second_with_vae"] = flops / seconds / 1e9
    return found
