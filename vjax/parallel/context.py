"""Attention among tokens that are divided over the `context` axis of a mesh, in three ways.

- gather: every device gathers all keys and values and attends for its own queries.
- ulysses: devices exchange tokens for heads, attend for some heads to all tokens, and exchange
  back (Jacobs et al. 2023, arXiv:2309.14509). The heads of a device must divide.
- ring: keys and values travel around the devices, which attend to one part at a time (Liu et al.
  2023, arXiv:2310.01889). None ever holds them all, nor the scores of a part.

All are exact. Each function sees one device's part of `[B F P K D]`, where P is divided, and is
told how many of all the positions of a frame are no padding.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import lax
from jax.sharding import AbstractMesh
from jaxtyping import Array, Bool, Float

AXIS = "context"
SCORES = 2**22  # of a ring that are held at once
GATHERED_BYTES = 2**30  # of keys and values on one device, above which they travel in a ring

# The way that a config asks for, while something is compiled.
way = jax.make_user_context("auto")

Tokens = Float[Array, "b f p k d"]
Keys = Float[Array, "b s p k d"]  # of as many frames as the queries, or more
Attend = Callable[[Array, Array, Array], Array]


def between(
    attend: Attend,
    shape: tuple[int, ...],
    dtype: jax.typing.DTypeLike,
    mesh: AbstractMesh,
    positions: int,
) -> Attend:
    """The function that one device runs on its part of tokens `[B F P K D]` of this shape.

    It goes the way that the config asks for. By default that is ulysses where the heads of a device
    divide, since it moves the fewest bytes; else gather, while keys and values fit; else ring.

    Args:
        attend: attention among tokens that are all here.
        positions: how many of P are no padding.
    """
    batch, frames, width, heads, head_dim = shape
    count = mesh.shape[AXIS]
    if heads % mesh.shape.get("tensor", 1) == 0:
        heads //= mesh.shape.get("tensor", 1)
    asked = way.value
    if asked == "auto":
        batch = max(1, batch // (mesh.shape.get("data", 1) * mesh.shape.get("fsdp", 1)))
        gathered = 2 * batch * frames * width * heads * head_dim * jnp.dtype(dtype).itemsize
        fallback = "gather" if gathered <= GATHERED_BYTES else "ring"
        asked = "ulysses" if heads % count == 0 else fallback
    return functools.partial(WAYS[asked], attend, positions=positions)


def gather(attend: Attend, q: Tokens, k: Keys, v: Keys, positions: int) -> Tokens:
    k, v = (lax.all_gather(x, AXIS, axis=2, tiled=True)[:, :, :positions] for x in (k, v))
    return attend(q, k, v)


def ulysses(attend: Attend, q: Tokens, k: Keys, v: Keys, positions: int) -> Tokens:
    q, k, v = (lax.all_to_all(x, AXIS, 3, 2, tiled=True) for x in (q, k, v))
    spare = q.shape[2] - positions
    out = attend(*(x[:, :, :positions] for x in (q, k, v)))
    out = jnp.pad(out, [(0, 0), (0, 0), (0, spare), (0, 0), (0, 0)])
    return lax.all_to_all(out, AXIS, 2, 3, tiled=True)


def ring(attend: Attend, q: Tokens, k: Keys, v: Keys, positions: int) -> Tokens:
    del attend  # parts of a softmax are put together here
    batch, frames, here = q.shape[:3]
    q, k, v = (rearrange(x, "b f p k d -> (b k) (f p) d") for x in (q, k, v))
    out = _ring(k.shape[1] // here, here, positions, q * q.shape[-1] ** -0.5, k, v)
    return rearrange(out, "(b k) (f p) d -> b f p k d", b=batch, f=frames)


WAYS = {"gather": gather, "ulysses": ulysses, "ring": ring}

# --- The ring. Its gradient travels around too, so that only a device's own part is kept. --------

Head = Float[Array, "h n d"]  # heads of all clips, tokens, channels
HeadKeys = Float[Array, "h s d"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _ring(frames: int, here: int, positions: int, q: Head, k: HeadKeys, v: HeadKeys) -> Head:
    return _forward(frames, here, positions, q, k, v)[0]


def _forward(frames, here, positions, q, k, v):
    def part(valid, k, v, q, out, largest, total):
        scores = jnp.where(valid, _products(q, k), -jnp.inf)
        new = jnp.maximum(largest, jnp.max(scores, axis=-1, keepdims=True))
        weights, before = jnp.exp(scores - new), jnp.exp(largest - new)
        out = out * before + jnp.einsum(
            "qs,sd->qd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        return out, new, total * before + jnp.sum(weights, axis=-1, keepdims=True)

    def head(valid, k, v, *blocks):
        return lax.map(lambda block: part(valid, k, v, *block), blocks)

    def step(carry, number):
        k, v, *sums = carry
        valid = _valid(number, frames, here, positions)
        sums = lax.map(lambda x: head(valid, *x), (k, v, blocks, *sums))
        return (*_pass_on((k, v)), *sums), None

    blocks, queries = _in_blocks(q, k.shape[1]), q.shape[1]
    column = jnp.zeros_like(blocks[..., :1], jnp.float32)
    # Finite from the start: a part of nothing but padding must not make infinity minus infinity.
    start = (jnp.zeros_like(blocks, jnp.float32), column - 1e30, column)
    (_, _, *sums), _ = lax.scan(step, (k, v, *start), jnp.arange(_devices()))
    out, largest, total = (_joined(x, queries) for x in sums)
    out = (out / total).astype(q.dtype)
    return out, (q, k, v, out, largest + jnp.log(total))


def _backward(frames, here, positions, kept, d_out):
    q, k, v, out, log_total = kept
    both = d_out.astype(jnp.float32) * out.astype(jnp.float32)
    delta = jnp.sum(both, axis=-1, keepdims=True)
    add = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def part(valid, k, v, sums, block):
        (dk, dv), (q, d_out, log_total, delta, dq) = sums, block
        weights = jnp.where(valid, jnp.exp(_products(q, k) - log_total), 0)
        dv += add("qs,qd->sd", weights.astype(v.dtype), d_out)
        d_scores = (weights * (_products(d_out, v) - delta)).astype(q.dtype)
        return (dk + add("qs,qd->sd", d_scores, q), dv), dq + add("qs,sd->qd", d_scores, k)

    def head(valid, k, v, dk, dv, *blocks):
        return lax.scan(functools.partial(part, valid, k, v), (dk, dv), blocks)

    def step(carry, number):
        k, v, dk, dv, dq = carry
        valid = _valid(number, frames, here, positions)
        (dk, dv), dq = lax.map(lambda x: head(valid, *x), (k, v, dk, dv, *blocks, dq))
        return (*_pass_on((k, v, dk, dv)), dq), None  # gradients are home after the last step

    blocks = [_in_blocks(x, k.shape[1]) for x in (q, d_out, log_total, delta)]
    zeros = [jnp.zeros_like(x, jnp.float32) for x in (k, v, blocks[0])]
    (_, _, dk, dv, dq), _ = lax.scan(step, (k, v, *zeros), jnp.arange(_devices()))
    found = _joined(dq, q.shape[1]), dk, dv
    return tuple(d.astype(x.dtype) for d, x in zip(found, (q, k, v), strict=True))


_ring.defvjp(_forward, _backward)


def _in_blocks(x: Float[Array, "h n c"], keys: int) -> Float[Array, "h blocks m c"]:
    """Queries, or what there is one of for each, such that the scores of a block are few."""
    queries = x.shape[1]
    blocks = min(queries, -(-queries * keys // SCORES))
    x = jnp.pad(x, [(0, 0), (0, -queries % blocks), (0, 0)])
    return rearrange(x, "h (blocks m) c -> h blocks m c", blocks=blocks)


def _joined(x: Float[Array, "h blocks m c"], queries: int) -> Float[Array, "h n c"]:
    return rearrange(x, "h blocks m c -> h (blocks m) c")[:, :queries]


def _products(q: Float[Array, "n d"], k: Float[Array, "s d"]) -> Float[Array, "n s"]:
    return jnp.einsum("qd,sd->qs", q, k, preferred_element_type=jnp.float32)


def _devices() -> int:
    return lax.axis_size(AXIS)


def _pass_on(parts):
    count = _devices()
    return jax.tree.map(
        lambda x: lax.ppermute(x, AXIS, [(i, (i - 1) % count) for i in range(count)]), parts
    )


def _valid(number: Array, frames: int, here: int, positions: int) -> Bool[Array, "1 n"]:
    """Which keys of the part that is here in a step are no padding."""
    owner = (lax.axis_index(AXIS) + number) % _devices()
    valid = owner * here + jnp.arange(here) < positions
    return jnp.tile(valid, frames)[None]
