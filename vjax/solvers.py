"""Solvers of the flow's equation `dx/dt = v(x, t)`, as pure step functions for `lax.scan`.

A solver is four facts and two functions: `init` makes a state of fixed shape around the latents,
`step` carries it from one time to the next. `state.x` always is the latents.

Euler and Heun are one-step: every token may have its own time, in an array that broadcasts against
the latents. UniPC (Zhao et al. 2023, arXiv:2302.04867) remembers earlier steps, which ties all
tokens to one clock. It is the variant that Wan uses: order 2, B₂(h) = exp(h) - 1, data prediction,
and order 1 in the first and the last step. Its oracle is diffusers' `UniPCMultistepScheduler(
prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=2)`; Wan's own code is the
same formula on other times, see `flow.wan_schedule` and `flow.diffusers_schedule`.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vjax.flow import data_from_velocity

Velocity = Callable[[Array, Array], Array]  # (latents, their time) -> velocity


@dataclasses.dataclass(frozen=True)
class Solver:
    """A way to walk the flow; hashable, so that it goes to `jit` as a static argument."""

    name: str
    init: Callable[[Array], Any]  # latents -> state
    step: Callable[[Any, Velocity, Array, Array], Any]  # state, velocity, t, t_next -> state
    evaluations_per_step: int
    needs_one_clock: bool  # times are scalars; otherwise anything that broadcasts to the latents


# States are not checked at run time, because a tree of their shapes or shardings is one too.
@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OneStep:
    """All that a solver without memory carries."""

    x: Float[Array, "*shape"]


def euler_step(state: OneStep, velocity: Velocity, t: Array, t_next: Array) -> OneStep:
    """Straight on with the velocity here: first order, one evaluation."""
    return OneStep(state.x + (t_next - t) * velocity(state.x, t))


def heun_step(state: OneStep, velocity: Velocity, t: Array, t_next: Array) -> OneStep:
    """The mean of the velocities here and at Euler's end point: second order, two evaluations.

    Tokens that arrive at 0 take Euler's step: networks are not trained to predict a velocity there,
    where tokens are known. The order stays two, since it is one step of many.
    """
    here = velocity(state.x, t)
    there = velocity(state.x + (t_next - t) * here, t_next)
    mean = jnp.where(t_next > 0, (here + there) / 2, here)
    return OneStep(state.x + (t_next - t) * mean)


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MultiStep:
    """UniPC's memory: the predicted latents, and what the last two evaluations said."""

    x: Float[Array, "*shape"]
    start: Float[Array, "*shape"]  # where the last step started, corrected
    data: Float[Array, "*shape"]  # the data that was predicted there
    older_data: Float[Array, "*shape"]  # and one step before
    t: Float[Array, ""]  # the time of `start` and `data`
    older_t: Float[Array, ""]
    count: Int[Array, ""]  # steps made


def unipc_init(x: Float[Array, "*shape"]) -> MultiStep:
    # Memory that `count` declares empty; 1 is a time like any other.
    # Every field has a buffer of its own, so that the state can be donated.
    zeros, one = functools.partial(jnp.zeros_like, x), functools.partial(jnp.ones, (), x.dtype)
    return MultiStep(x, zeros(), zeros(), zeros(), one(), one(), jnp.zeros((), jnp.int32))


def unipc_step(state: MultiStep, velocity: Velocity, t: Array, t_next: Array) -> MultiStep:
    """Correct the latents with what the network says here, then predict the next: one evaluation.

    In data prediction the exact solution over a step from s to t is, with α = 1 - t, σ = t,
    λ = log(α/σ) and h = λ_t - λ_s,  x_t = σ_t/σ_s x_s + α_t (1 - exp(-h)) (mean of the data),
    and order 2 takes that mean along the line through two predictions.
    """
    data = data_from_velocity(state.x, velocity(state.x, t), t)

    with jax.named_scope("correct"):
        keep, gain, _ = _exponential_step(state.t, t)
        by_older, by_data, by_new = _corrector_weights(state, t)
        mean = by_older * state.older_data + by_data * state.data + by_new * data
        x = jnp.where(state.count > 0, keep * state.start + gain * mean, state.x)

    with jax.named_scope("predict"):
        keep, gain, h = _exponential_step(t, t_next)
        # The last step, to t = 0, is infinitely long in λ: a line through the past says nothing.
        second_order = (state.count > 0) & (t_next > 0)
        slope = jnp.where(second_order, h / (2 * (_log_snr(state.t) - _log_snr(t))), 0.0)
        x_next = keep * x + gain * (data + slope * (state.data - data))

    return MultiStep(x_next, x, data, state.data, t, state.t, state.count + 1)


def _log_snr(t: Array) -> Array:
    return jnp.log1p(-t) - jnp.log(t)


def _exponential_step(s: Array, t: Array) -> tuple[Array, Array, Array]:
    """The factors of x_s and of the mean data over a step from s to t, and its length in λ."""
    keep = t / s
    # α_t (1 - exp(-h)) without logarithms, which are infinite at both ends of the path.
    gain = (1 - t) - keep * (1 - s)
    return keep, gain, _log_snr(t) - _log_snr(s)


def _corrector_weights(state: MultiStep, t: Array) -> tuple[Array, Array, Array]:
    """The shares in the mean data of the two remembered predictions and of the new one."""
    h = _log_snr(t) - _log_snr(state.t)
    ratio = (_log_snr(state.older_t) - _log_snr(state.t)) / h
    first, second = _corrector_moments(h)
    # Solve [[1, 1], [ratio, 1]] [older, new] = [first, second].
    older = (first - second) / (1 - ratio)
    new = first - older
    second_order = state.count > 1
    older = jnp.where(second_order, older / ratio, 0.0)
    new = jnp.where(second_order, new, 0.5)
    return older, 1 - older - new, new


def _corrector_moments(h: Array) -> tuple[Array, Array]:
    """The right-hand sides b₁ and b₂ of UniPC's equations for B₂."""
    z = -h
    expm1 = jnp.expm1(z)
    # (eᶻ-1)/z - 1 and ((eᶻ-1)/z - 1)/z - 1/2 cancel in float32 where steps are short: series there.
    small = jnp.clip(z, -1.0, 1.0)
    first_series, second_series = jnp.zeros_like(z), jnp.zeros_like(z)
    factorials = (2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800)
    for factorial in reversed(factorials[:-1]):
        first_series = small * (1 / factorial + first_series)
    for factorial in reversed(factorials[1:]):
        second_series = small * (1 / factorial + second_series)
    first = jnp.where(jnp.abs(z) < 1, first_series, expm1 / z - 1)
    second = jnp.where(jnp.abs(z) < 1, second_series, first / z - 0.5)
    return first / expm1, 2 * second / expm1


EULER = Solver("euler", OneStep, euler_step, evaluations_per_step=1, needs_one_clock=False)
HEUN = Solver("heun", OneStep, heun_step, evaluations_per_step=2, needs_one_clock=False)
UNIPC = Solver("unipc", unipc_init, unipc_step, evaluations_per_step=1, needs_one_clock=True)


def solver(name: str) -> Solver:
    """The solver of that name; raises ValueError with those that exist."""
    solvers = {each.name: each for each in (EULER, HEUN, UNIPC)}
    if name not in solvers:
        raise ValueError(f"There is no solver {name!r}: choose one of {', '.join(solvers)}.")
    return solvers[name]
