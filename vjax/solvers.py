"""Solvers of the flow's equation `dx/dt = v(x, t)`, as pure step functions for `lax.scan`.

A solver is a few facts and two functions: `init` makes a state of fixed shape around the latents
(and a random key of each sample, which only a stochastic solver reads), `step` carries it from one
time to the next. `state.x` always is the latents.

Euler and Heun are one-step: every token may have its own time, in an array that broadcasts against
the latents. UniPC (Zhao et al. 2023, arXiv:2302.04867) remembers earlier steps, which ties all
tokens to one clock. The stochastic one is Euler with churn (Karras et al. 2022, arXiv:2206.00364,
algorithm 2, for a straight path): what a small network gets wrong at high noise stays on a
deterministic path for good, while fresh noise covers it and lets the network decide again.

UniPC is the variant that Wan uses: order 2, B₂(h) = exp(h) - 1, data prediction,
and order 1 in the first and the last step. Its oracle is diffusers' `UniPCMultistepScheduler(
prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=2)`; Wan's own code is the
same formula on other times, see `flow.diffusers_schedule`.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from vjax.flow import data_from_velocity

Velocity = Callable[[Array, Array], Array]  # (latents, their time) -> velocity


@dataclasses.dataclass(frozen=True)
class Solver:
    """A way to walk the flow; hashable, so that it goes to `jit` as a static argument."""

    name: str
    init: Callable[[Array, Array], Any]  # latents, keys [B] -> state
    step: Callable[[Any, Velocity, Array, Array], Any]  # state, velocity, t, t_next -> state
    needs_one_clock: bool = False  # times are scalars; otherwise they broadcast to the latents
    adds_noise: bool = False  # on the way


# States are not checked at run time, because a tree of their shapes or shardings is one too.
@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OneStep:
    """All that a solver without memory carries."""

    x: Float[Array, "*shape"]


def one_step_init(x: Float[Array, "*shape"], keys: Key[Array, " B"] | None = None) -> OneStep:
    return OneStep(x)


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


CHURN = 2.0  # how far a step first goes back, in lengths of the step
MOST_CHURN = 0.5  # and at most, as a share of t (1 - t)


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Churned:
    """Latents, and where the noise of each sample comes from."""

    x: Float[Array, "B *shape"]
    keys: Key[Array, " B"]
    count: Int[Array, ""]  # steps made


def stochastic_init(x: Float[Array, "B *shape"], keys: Key[Array, " B"]) -> Churned:
    return Churned(x, jnp.array(keys), jnp.zeros((), jnp.int32))


def stochastic_step(state: Churned, velocity: Velocity, t: Array, t_next: Array) -> Churned:
    """Back to t + c t (1 - t) with fresh noise, and from there Euler's step to t_next.

    The data keep the share 1 - c t of what they had, and noise fills up what is missing to its new
    level. Short steps go back less, so that many of them follow a stochastic equation with the
    distributions of the flow. Tokens whose time stands still are left alone.
    """

    def draw(key: Array) -> Array:
        shape = state.x.shape[1:]
        return jax.random.normal(jax.random.fold_in(key, state.count), shape, state.x.dtype)

    noise = jax.vmap(draw)(state.keys)
    share = CHURN * (t - t_next) / jnp.maximum(t * (1 - t), 1e-6)
    keep = 1 - jnp.minimum(share, MOST_CHURN) * t
    raised = 1 - (1 - t) * keep
    missing = jnp.sqrt(jnp.maximum(raised**2 - (keep * t) ** 2, 0))
    x = keep * state.x + missing * noise
    x = x + (t_next - raised) * velocity(x, raised)
    return Churned(x, state.keys, state.count + 1)


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


def unipc_init(x: Float[Array, "*shape"], keys: Key[Array, " B"] | None = None) -> MultiStep:
    # Memory that `count` declares empty; 1 is a time like any other.
    # Every field has a buffer of its own, so that the state can be donated.
    zeros, one = functools.partial(jnp.zeros_like, x), functools.partial(jnp.ones, (), x.dtype)
    return MultiStep(x, zeros(), zeros(), zeros(), one(), one(), jnp.zeros((), jnp.int32))


def unipc_step(
    state: MultiStep, velocity: Velocity, t: Array, t_next: Array, *, in_place: bool = False
) -> MultiStep:
    """Correct the latents with what the network says here, then predict the next: one evaluation.

    In data prediction the exact solution over a step from s to t is, with α = 1 - t, σ = t,
    λ = log(α/σ) and h = λ_t - λ_s,  x_t = σ_t/σ_s x_s + α_t (1 - exp(-h)) (mean of the data),
    and order 2 takes that mean along the line through two predictions.

    Args:
        in_place: as in the loops of SkyReels-V2 DF, which write each prediction over the noise: the
            first correction starts from the prediction in place of the noise.
    """
    data = data_from_velocity(state.x, velocity(state.x, t), t)

    with jax.named_scope("correct"):
        keep, gain, _ = _exponential_step(state.t, t)
        by_older, by_data, by_new = _corrector_weights(state, t)
        mean = by_older * state.older_data + by_data * state.data + by_new * data
        begin = jnp.where(state.count == 1, state.x, state.start) if in_place else state.start
        x = jnp.where(state.count > 0, keep * begin + gain * mean, state.x)

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


EULER = Solver("euler", one_step_init, euler_step)
HEUN = Solver("heun", one_step_init, heun_step)
UNIPC = Solver("unipc", unipc_init, unipc_step, needs_one_clock=True)
UNIPC_IN_PLACE = dataclasses.replace(UNIPC, step=functools.partial(unipc_step, in_place=True))
STOCHASTIC = Solver("stochastic", stochastic_init, stochastic_step, adds_noise=True)
SOLVERS = {each.name: each for each in (EULER, HEUN, UNIPC, STOCHASTIC)}
