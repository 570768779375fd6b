"""What of each clip is known while a network learns, drawn at random."""

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Bool, Float

from vjax import conditioning
from vjax.config import Bucket, DiTLossConfig, ModelConfig


def kept(
    key: Array, model: ModelConfig, recipe: DiTLossConfig, bucket: Bucket, count: int
) -> Float[Array, "B T #H #W 1"]:
    """1 where pixels are known by a model that takes them beside its latents, else 0.

    In channels the first frame always is, with those after it or, of a model that looks at both
    ends, the last one. By a control branch frames from either end or from both are, and in buckets
    with boxes what lies outside a region of space.
    """
    start_key, end_key, box_key = jax.random.split(key, 3)
    known, end = ends((start_key, end_key), recipe, bucket, count, bucket.frames)
    if model.conditioning == "control":
        known = known | end
    elif model.dit.image_tokens:
        known = jnp.zeros_like(known).at[:, jnp.array([0, -1])].set(True)
    else:
        known = known.at[:, 0].set(True)
    known = rearrange(known, "b t -> b t 1 1 1")
    if bucket.boxes:
        side = model.vae.spatial_ratio
        box = boxes(box_key, model.dit.patch, count, *(n // side for n in bucket.size))
        known = known | repeat(box, "b h w -> b 1 (h p) (w q) 1", p=side, q=side)
    return known.astype(jnp.float32)


def in_place(
    key,
    model: ModelConfig,
    recipe: DiTLossConfig,
    bucket: Bucket,
    encode,
    video: Float[Array, "B T H W 3"],
) -> tuple[Float[Array, "B t h w C"], Float[Array, "B t h w C"], Bool[Array, "B t"]]:
    """Latents of clips; the same where they are known as the sampler has them; which are known.

    A prefix may be, and where each frame has its own time an end as well, or both. An end is
    encoded as a clip of its own.
    """
    clean = encode(video)
    count, frames = clean.shape[:2]
    if model.conditioning not in ("first_frame", "per_frame"):
        return clean, clean, jnp.zeros((count, frames), bool)
    known, end = ends(jax.random.split(key), recipe, bucket, count, frames)
    if model.conditioning == "first_frame" or frames == 1:
        return clean, clean, known
    first = frames - end.sum(axis=1)
    turned = jax.vmap(lambda x, by: jnp.roll(x, by, axis=0))
    # A causal VAE encodes what comes first as if nothing came after it.
    alone = turned(encode(turned(video, -model.vae.temporal_ratio * first)), first)
    return clean, jnp.where(end[..., None, None, None], alone, clean), known | end


def beside(
    model: ModelConfig, encode, video: Float[Array, "B T H W 3"], known: Float[Array, "B T #H #W 1"]
) -> dict[str, Float[Array, "B t h w C"]]:
    """What the network takes of clips beside their latents, by the name of its argument.

    Args:
        encode: clips to latents.
        known: see `kept`. What is not is to be made, and nothing is shown of it.
    """
    latents = encode(jnp.where(known >= 1, video, 0))
    if model.conditioning == "channels":
        lay = jax.vmap(lambda whole, z: conditioning.in_channels(whole, z, model))
        return {"channels": lay(rearrange(known, "b t 1 1 1 -> b t"), latents)}
    changes = jnp.broadcast_to(encode(jnp.zeros_like(video[:1])), latents.shape)
    middles = conditioning.middles(latents.shape[1], video.shape[1])
    made = jnp.broadcast_to(1 - known, (*video.shape[:-1], 1))[:, middles]
    return {"control": jax.vmap(conditioning.for_control)(latents, changes, made)}


def ends(keys, recipe: DiTLossConfig, bucket: Bucket, count: int, frames: int):
    """Which frames are known at the start of each sample, and which at its end: [B T] of both."""
    start, end = (prefix(key, recipe, bucket, count, frames) for key in keys)
    end = end[:, ::-1]
    return start, end & ~(start | end).all(axis=1, keepdims=True)


def prefix(key, recipe: DiTLossConfig, bucket: Bucket, count: int, frames: int) -> Array:
    """Which frames are known from the start of each sample: [B T], at least one is not."""
    choice_key, length_key = jax.random.split(key)
    choice = jax.random.uniform(choice_key, (count,))
    if bucket.lead:  # a window within a longer clip goes on from something
        choice = jnp.ones_like(choice)
    length = jax.random.randint(length_key, (count,), 1, max(frames, 2))
    known = jnp.where(choice < recipe.nothing + recipe.first_frame, 1, length)
    known = jnp.where(choice < recipe.nothing, 0, known)
    if frames == 1:
        known = jnp.zeros_like(known)
    return jnp.arange(frames)[None] < known[:, None]


def anchors(key, encode, ratio: int, video: Array, wanted: int) -> tuple[Array, Array]:
    """Per sample either single frames from anywhere or the clip's end: latents and positions."""
    count, frames = video.shape[:2]
    frame_key, last_key, choice_key = jax.random.split(key, 3)
    index = jax.random.randint(frame_key, (count, wanted), 0, frames)
    has_last = jax.random.bernoulli(last_key, 0.5, (count,))
    index = index.at[:, 0].set(jnp.where(has_last, frames - 1, index[:, 0]))
    picked = jnp.take_along_axis(video, index[:, :, None, None, None], axis=1)
    single = encode(rearrange(picked, "b a h w c -> (b a) 1 h w c"))
    single = rearrange(single, "(b a) 1 h w c -> b a h w c", a=wanted)
    positions = index / ratio
    if wanted == 1:
        return single, positions
    start = frames - (1 + ratio * (wanted - 1))
    end = encode(video[:, start:])
    end_positions = jnp.broadcast_to(start / ratio + jnp.arange(wanted)[None], positions.shape)
    is_end = jax.random.bernoulli(choice_key, 0.6, (count,))
    return (
        jnp.where(is_end[:, None, None, None, None], end, single),
        jnp.where(is_end[:, None], end_positions, positions),
    )


def references(key, encode, video: Array, wanted: int) -> Array:
    """Frames from anywhere in each clip, moved so that what they show lies in another place.

    What is moved over an edge comes in at the opposite one.
    """
    count, frames, height, width, _ = video.shape
    index_key, row_key, column_key = jax.random.split(key, 3)
    shape = (count, wanted)
    index = jax.random.randint(index_key, shape, 0, frames)
    rows = jax.random.randint(row_key, shape, 0, height)
    columns = jax.random.randint(column_key, shape, 0, width)
    picked = jnp.take_along_axis(video, index[:, :, None, None, None], axis=1)
    roll = jax.vmap(lambda frame, row, column: jnp.roll(frame, (row, column), axis=(0, 1)))
    moved = jax.vmap(roll)(picked, rows, columns)
    latents = encode(rearrange(moved, "b a h w c -> (b a) 1 h w c"))
    return rearrange(latents, "(b a) 1 h w c -> b a h w c", a=wanted)


def boxes(key, patch: tuple[int, int, int], count: int, height: int, width: int) -> Array:
    """What lies outside (or, for a third, inside) of a random box on the patch grid: [B H W].

    A tenth of the samples know nothing of that kind.
    """
    _, ph, pw = patch
    low_key, high_key, side_key, whole_key = jax.random.split(key, 4)
    cells = jnp.array([[height // ph, width // pw]])
    low = jax.random.randint(low_key, (count, 2), 0, cells)
    high = jax.random.randint(high_key, (count, 2), low + 1, cells + 1)
    rows = jnp.arange(height)[None] // ph
    columns = jnp.arange(width)[None] // pw
    in_rows = (rows >= low[:, :1]) & (rows < high[:, :1])
    in_columns = (columns >= low[:, 1:]) & (columns < high[:, 1:])
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    keeps_inside = jax.random.bernoulli(side_key, 1 / 3, (count,))
    box = jnp.where(keeps_inside[:, None, None], inside, ~inside)
    box &= ~jax.random.bernoulli(whole_key, 0.1, (count, 1, 1))
    return box & ~box.all(axis=(1, 2), keepdims=True)  # something must be left to make
