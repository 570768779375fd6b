"""The sampler: noise, a condition and a schedule become latents, in one loop on the device.

Every request is the same to it: some tokens are known, some to a degree, the rest not at all. With
strength s a token's own time is `τ = min(t, 1 - s)`. It starts as `(1 - τ) source + τ noise`, and
each step moves it by `(τ_next - τ) v`. A token with s = 1 stays at τ = 0, where it is the source,
and s = 0 is plain generation. Networks that were trained with one time for all tokens see that
instead (`Condition.noise`): a token then is the source with the noise of that time until t = 1 - s.

`sample` is the whole of it: one `lax.scan`, one call to compile. Whoever wants to watch or to stop
compiles `advance` instead, the same scan with a window of steps to make that is known only when it
runs: one executable makes one step or all of them, with the same bytes as a result, and
`vjax.progress` moves the window. The scan does not call back to the host, since jax 0.10 leaves
programs with callbacks out of its persistent compilation cache, and every new process would compile
for minutes instead of loading in seconds.
"""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jax import lax
from jaxtyping import Array, Float, Int, Key, Real

from vjax import flow
from vjax.solvers import Solver

# velocity(latents, t, text, positions=…, anchors=…, anchor_positions=…), as a VideoDiT is called,
# with t of each latent position [B T H W], or of each frame [B T] where strength has one value.
Velocity = Callable[..., Array]


# Of the guidance on the text that latents are moved to, that on the text which they are moved from,
# and never below 1: published settings are 3.5 of 13.5 and 1.5 of 5.5 (arXiv:2412.08629, app. D).
ORIGIN_GUIDANCE = 0.26


# Not checked at run time, because trees of their shapes or shardings are the same types.
@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Origin:
    """What known latents are and what they are said to show, where they are to show another."""

    latents: Float[Array, "B T H W C"]  # all of them, also of what was moved in an earlier window
    text: Float[Array, "B S D"]
    keys: Key[Array, " B"] | None = None  # of the noise in which both are looked at
    # So many of the last anchors show what it is to become, and are not seen by what it was.
    references: int = dataclasses.field(default=0, metadata={"static": True})


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Condition:
    """What is known before sampling starts, in latents: all that the sampler reads of a request."""

    source: Float[Array, "B T H W C"]  # known latents; zeros where nothing is known
    # 1 = keep, 0 = generate, between = a point to depart from. One value per frame (axes of size 1)
    # makes the network cheaper, because it then modulates per frame.
    strength: Float[Array, "B T #H #W 1"]
    anchors: Float[Array, "B A H W C"]  # frames known out of order; A may be 0
    positions: Float[Array, "B T"]  # time of each latent frame, in native latent frames
    anchor_positions: Float[Array, "B A"]
    text: Float[Array, "B S D"]
    negative: Float[Array, "B S D"]  # the text to steer away from; not read without guidance
    # Added to the scores of cross-attention, of the T frames and then the A anchors with the tokens
    # of texts; the same for both texts.
    text_bias: Float[Array, "B T+A S"] | None = None
    # What is known to a degree is not noised: it moves from here by the difference of two
    # velocities (FlowEdit, Kulikov et al. 2024, arXiv:2412.08629).
    origin: Origin | None = None
    # What the network takes beside, by the names of its arguments; the same for both texts.
    inputs: dict[str, Array] = dataclasses.field(default_factory=dict)
    # Of a network that has one time for all tokens: the noise in which it sees what is known.
    noise: Float[Array, "B T H W C"] | None = None
    # The end meets the start: nothing is known, and each step sees the frames from another one on.
    ring: bool = dataclasses.field(default=False, metadata={"static": True})


def check(solver: Solver, strength: Array | np.ndarray, moved: bool = False) -> None:
    """Raise ValueError where the solver cannot serve these strengths; call it before `jit`.

    Args:
        moved: whether the condition has an origin.
    """
    strength = np.asarray(strength)
    if strength.min(initial=0) < 0 or strength.max(initial=1) > 1:
        raise ValueError(
            "Strength goes from 0 (generate) to 1 (keep), but this request has values from "
            f"{strength.min():g} to {strength.max():g}."
        )
    if moved and (solver.needs_one_clock or solver.adds_noise):
        raise ValueError(
            f"What moves from one text to another holds no noise of its own, as the {solver.name} "
            "solver needs it: use euler or heun."
        )
    between = strength[(strength > 0) & (strength < 1)]
    if solver.needs_one_clock and between.size:
        raise ValueError(
            f"The {solver.name} solver moves all tokens on one clock and serves strengths 0 and 1 "
            f"only, but this request has {between[0]:g}: use euler or heun."
        )


def sample(
    velocity: Velocity,
    condition: Condition,
    noise: Float[Array, "B T H W C"],
    times: Float[Array, "times"],
    *,
    solver: Solver,
    keys: Key[Array, " B"] | None = None,
    guidance: float | int | Float[Array, ""] = 1.0,
    told: Float[Array, "times-1"] | None = None,
) -> Float[Array, "B T H W C"]:
    """Latents at `times[-1]`, made from noise in `len(times) - 1` steps.

    Latents are float32 between steps, whatever the network computes in: steps are small.
    Guidance runs the network once on a batch of 2B (see `paired`). The Python number 1 turns it
    off and halves the cost; pass an array to change the scale without compiling again.
    """
    state = start(condition, noise, times[0], solver=solver, keys=keys)
    state = advance(
        velocity,
        condition,
        state,
        times,
        0,
        times.size - 1,
        solver=solver,
        guidance=guidance,
        told=told,
    )
    return finish(condition, state)


def start(
    condition: Condition,
    noise: Float[Array, "B T H W C"],
    t: Float[Array, ""],
    *,
    solver: Solver,
    keys: Key[Array, " B"] | None = None,
) -> Any:
    """The solver's state before the first step: each token at its own time on its path.

    With an origin what is known is where it is. `keys` are the samples' own, for a solver that adds
    noise on the way.
    """
    if condition.origin is not None:
        return solver.init(jnp.where(condition.strength > 0, condition.source, noise), keys)
    return solver.init(flow.interpolate(condition.source, noise, own_time(condition, t)), keys)


def advance(
    velocity: Velocity,
    condition: Condition,
    state: Any,
    times: Float[Array, "times"],
    begin: int | Int[Array, ""],
    end: int | Int[Array, ""],
    *,
    solver: Solver,
    guidance: float | int | Float[Array, ""] = 1.0,
    told: Float[Array, "times-1"] | None = None,
) -> Any:
    """The state after steps `begin` to `end - 1`; step i goes from times[i] to times[i + 1].

    Args:
        told: what the network is told of the time of each step, where that is not quite what it is;
            for a solver that asks once a step.
    """

    def step(state: Any, now: tuple[Array, ...]) -> tuple[Any, None]:
        i, t, t_next, heard = now
        clock = t

        def velocity_at(latents: Array, t: Array) -> Array:
            tau = own_time(condition, t) if solver.needs_one_clock else t
            if told is not None:
                tau = own_time(condition, heard)
            x = latents if condition.noise is not None else _put_back(condition, latents)
            if condition.origin is not None:
                return _difference(velocity, condition, x, tau, i, guidance)
            if not condition.ring:
                return _guided_velocity(velocity, condition, x, tau, guidance)
            turned, tau = (_closed(jnp.roll(each, -i, axis=1)) for each in (x, tau))
            seen = _turned(condition, i)
            found = _guided_velocity(velocity, seen, turned, tau, guidance)
            return jnp.roll(found[:, 1:], i + 1, axis=1)

        if not solver.needs_one_clock:
            t, t_next = own_time(condition, t), own_time(condition, t_next)

        def move(state: Any) -> Any:
            if condition.noise is not None:
                state = dataclasses.replace(state, x=_noised(condition, state.x, clock))
            return solver.step(state, velocity_at, t, t_next)

        with jax.named_scope(solver.name):
            inside = (begin <= i) & (i < end)
            state = lax.cond(inside, move, lambda state: state, state)
        return state, None

    heard = times[:-1] if told is None else told
    return lax.scan(step, state, (jnp.arange(times.size - 1), times[:-1], times[1:], heard))[0]


def finish(condition: Condition, state: Any) -> Float[Array, "B T H W C"]:
    """The latents of a state, with the known ones exactly as they were given."""
    return _put_back(condition, state.x)


def own_time(
    condition: Condition, t: Float[Array, ""] | Float[Array, "B #T 1 1 1"]
) -> Float[Array, "B T #H #W 1"]:
    """τ of each token while the clock, one for all, a sample or a frame, says `t`."""
    if condition.noise is not None:
        return jnp.broadcast_to(t, (*condition.strength.shape[:2], 1, 1, 1))
    return jnp.minimum(t, 1 - condition.strength)


def predict(
    velocity: Velocity, condition: Condition, latents: Float[Array, "B T H W C"], tau: Array
) -> Float[Array, "B T H W C"]:
    """The network's velocity of latents at each token's own time, with the known ones put back.

    Training asks the network by this too, so that it sees what it is asked when it samples.
    """
    return _guided_velocity(velocity, condition, _put_back(condition, latents), tau, 1)


def paired(x: Real[Array, "B *rest"]) -> Real[Array, "2*B *rest"]:
    """Every sample twice in a row: the guided batch is c₀ u₀ c₁ u₁ … with c conditional.

    Side by side, because both then live on the device that holds the sample. One half of the
    batch after the other would send every second sample across the mesh at each step.
    """
    return repeat(x, "b ... -> (b pair) ...", pair=2)


def _put_back(condition: Condition, latents: Array) -> Array:
    # Solvers with one clock move known tokens too; and x + 0 v is x only where v is finite.
    return jnp.where(condition.strength >= 1, condition.source, latents)


def _noised(condition: Condition, latents: Array, t: Array) -> Array:
    """Latents in which what is known is the source, in the noise of time `t` if it does not move.

    Noise is added to what moves when the network looks at it.
    """
    known = condition.source
    if condition.origin is None:
        known = flow.interpolate(known, condition.noise, t)
    return jnp.where(t > 1 - condition.strength, known, latents)


def _difference(
    velocity: Velocity, condition: Condition, latents: Array, tau: Array, step: Array, guidance: Any
) -> Array:
    """The velocity of moved latents less that of their origin, both under the same fresh noise.

    `(1 - τ) origin + τ noise` shows the network what it would have come from, and the moved latents
    are as far from there as they are from their origin. What is not known is made as ever.
    """
    origin, known = condition.origin, condition.strength > 0

    def draw(key: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, step), latents.shape[1:], latents.dtype)

    noised = flow.interpolate(origin.latents, jax.vmap(draw)(origin.keys), tau)
    there = jnp.where(known, latents + (noised - origin.latents), latents)
    seen = condition.anchors.shape[1] - origin.references
    before = dataclasses.replace(
        condition,
        source=origin.latents,
        anchors=condition.anchors[:, :seen],
        anchor_positions=condition.anchor_positions[:, :seen],
        text=origin.text,
        text_bias=None,
        origin=None,
    )
    alone = isinstance(guidance, (int, float)) and guidance == 1
    less = 1 if alone else jnp.maximum(1.0, ORIGIN_GUIDANCE * guidance)
    there = _guided_velocity(velocity, condition, there, tau, guidance)
    with jax.named_scope("origin"):
        here = _guided_velocity(velocity, before, noised, tau, less)
    return there - jnp.where(known, here, 0)


def _closed(x: Float[Array, "B T *rest"]) -> Float[Array, "B T+1 *rest"]:
    """A ring as the network sees it: its first latent once more after its last.

    What is told of the first one is that which follows the last: so there is no place in a ring
    that the network does not see across, and none that it takes for the beginning of a video.
    """
    return jnp.concatenate([x, x[:, :1]], axis=1)


def _turned(condition: Condition, steps: int | Int[Array, ""]) -> Condition:
    """What a ring hears, closed, that is seen from so many frames on, and where it lies."""
    at, bias, frames = condition.positions, condition.text_bias, condition.source.shape[1]
    apart = at[:, 1:2] - at[:, :1] if frames > 1 else 1.0
    if bias is not None:
        here = _closed(jnp.roll(bias[:, :frames], -steps, axis=1))
        bias = jnp.concatenate([here, bias[:, frames:]], axis=1)
    at = jnp.concatenate([at, at[:, -1:] + apart], axis=1)
    return dataclasses.replace(condition, positions=at, text_bias=bias)


def _guided_velocity(
    velocity: Velocity, condition: Condition, latents: Array, tau: Array, guidance: Any
) -> Array:
    per_frame = tau.shape[2:4] == (1, 1)
    t = rearrange(tau, "b t 1 1 1 -> b t" if per_frame else "b t h w 1 -> b t h w")
    if t.ndim == 4:
        t = jnp.broadcast_to(t, latents.shape[:4])
    known = {
        "positions": condition.positions,
        "anchors": condition.anchors,
        "anchor_positions": condition.anchor_positions,
        **condition.inputs,
    }
    if condition.text_bias is not None:
        known["text_bias"] = condition.text_bias
    if isinstance(guidance, (int, float)) and guidance == 1:
        return velocity(latents, t, condition.text, **known).astype(latents.dtype)
    text = rearrange([condition.text, condition.negative], "pair b s d -> (b pair) s d")
    both = velocity(paired(latents), paired(t), text, **jax.tree.map(paired, known))
    both = rearrange(both.astype(latents.dtype), "(b pair) ... -> pair b ...", pair=2)
    with jax.named_scope("guide"):
        return flow.guide(both[0], both[1], guidance)
