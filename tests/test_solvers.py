import functools
import pathlib
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vjax import flow, solvers
from vjax.config import SamplerConfig

# Trajectories on random velocities, recorded from diffusers 0.42.1 with torch 2.13:
#   UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True,
#       num_train_timesteps=1000, solver_order=2, flow_shift=shift).set_timesteps(steps)
#   FlowMatchEulerDiscreteScheduler(shift=shift).set_timesteps(sigmas=linspace(1, 1/steps, steps))
# under "<solver>_<steps>_<shift>": _sigmas [steps+1], _v [steps ...] and _x [steps+1 ...].
ORACLE = np.load(pathlib.Path(__file__).parent / "data" / "solvers.npz")
RUNS = sorted(key.removesuffix("_x") for key in ORACLE.files if key.endswith("_x"))


@functools.partial(jax.jit, static_argnames=("solver", "velocity"))
def walk(solver, velocity, x, times, inputs=None):
    """The latents after every step, with `velocity(inputs[i], x, t)` where there are inputs."""

    def step(state, scanned):
        t, t_next, extra = scanned
        here = velocity if extra is None else functools.partial(velocity, extra)
        state = solver.step(state, here, t, t_next)
        return state, state.x

    return jax.lax.scan(step, solver.init(x), (times[:-1], times[1:], inputs))[1]


def recorded(v, x, t):
    return v


@pytest.mark.parametrize("run", RUNS)
def test_follows_the_published_scheduler_step_by_step(run):
    solver = solvers.SOLVERS[run.split("_")[0]]
    times, velocities, expected = (ORACLE[f"{run}_{part}"] for part in ("sigmas", "v", "x"))

    x = walk(solver, recorded, jnp.asarray(expected[0]), times, velocities)
    for ours, theirs in zip(np.asarray(x), expected[1:], strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


# Data from N(MEAN, STD²) have an exact velocity, and noise ε flows to MEAN + STD ε.
MEAN, STD = 0.7, 0.4


def gaussian_velocity(x, t):
    variance = (1 - t) ** 2 * STD**2 + t**2
    return (t - (1 - t) * STD**2) / variance * (x - (1 - t) * MEAN) - MEAN


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("unipc", 2)])
def test_converges_to_the_exact_flow_with_its_order(name, order):
    with jax.enable_x64(True):
        noise = jnp.linspace(-2.0, 2.0, 9)
        errors = [
            np.abs(
                walk(solvers.SOLVERS[name], gaussian_velocity, noise, flow.schedule(steps))[-1]
                - (MEAN + STD * noise)
            ).max()
            for steps in (32, 64, 128)
        ]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(orders, order, atol=0.25)
    assert errors[-1] < (2e-2 if order == 1 else 1e-3)


def test_unipc_is_finite_from_exactly_one_and_over_short_steps():
    noise = jnp.linspace(-2.0, 2.0, 9)
    for steps in (1, 2, 1000):
        x = walk(solvers.UNIPC, gaussian_velocity, noise, flow.schedule(steps, 3.0))
        assert np.all(np.isfinite(x))
    np.testing.assert_allclose(x[-1], MEAN + STD * noise, atol=1e-4)


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_one_step_solvers_move_each_token_by_its_own_time(name):
    x = jnp.ones((1, 3, 2))
    t, t_next = jnp.array([0.0, 0.5, 1.0]), jnp.array([0.0, 0.5, 0.75])
    solver = solvers.SOLVERS[name]

    def velocity(x, t):
        return 2.0 + 4.0 * t * jnp.ones_like(x)

    state = solver.step(solver.init(x), velocity, t[None, :, None], t_next[None, :, None])
    moved = {"euler": 1 - 0.25 * 6.0, "heun": 1 - 0.25 * 5.5}[name]
    np.testing.assert_allclose(state.x[0], [[1, 1], [1, 1], [moved, moved]])


def test_heun_does_not_trust_the_velocity_at_zero():
    def velocity(x, t):
        return jnp.where(t > 0, jnp.ones_like(x), jnp.nan)

    state = solvers.HEUN.step(solvers.HEUN.init(jnp.ones((2,))), velocity, *jnp.array([0.5, 0.0]))
    np.testing.assert_array_equal(state.x, [0.5, 0.5])


def test_stochastic_samples_have_the_data_distribution():
    noise = jax.random.normal(jax.random.key(0), (20_000,))
    keys = jax.random.split(jax.random.key(1), noise.size)

    @jax.jit
    def last(x, keys):
        def step(state, times):
            return solvers.STOCHASTIC.step(state, gaussian_velocity, *times), None

        times = flow.schedule(500)
        state = solvers.STOCHASTIC.init(x, keys)
        return jax.lax.scan(step, state, (times[:-1], times[1:]))[0].x

    x = last(noise, keys)
    np.testing.assert_allclose([x.mean(), x.std()], [MEAN, STD], atol=0.02)
    # It has left the deterministic path, and a sample depends on its own key alone.
    assert abs(np.corrcoef(x, noise)[0, 1]) < 0.5
    np.testing.assert_allclose(last(noise[5:7], keys[5:7]), x[5:7], atol=1e-5)


def test_stochastic_leaves_tokens_alone_whose_time_stands_still():
    x = jnp.ones((2, 3, 1))
    t, t_next = jnp.array([[[0.0], [0.5], [0.5]]]), jnp.array([[[0.0], [0.5], [0.25]]])
    state = solvers.STOCHASTIC.init(x, jax.random.split(jax.random.key(0), 2))
    state = solvers.STOCHASTIC.step(state, lambda x, t: jnp.ones_like(x), t, t_next)
    np.testing.assert_array_equal(state.x[:, :2], x[:, :2])
    assert (np.asarray(state.x[:, 2]) != 1).all()
    assert not np.allclose(state.x[0, 2], state.x[1, 2])


def test_a_model_can_ask_for_every_solver():
    hint = typing.get_type_hints(SamplerConfig)["solver"]
    assert set(typing.get_args(hint)) == set(solvers.SOLVERS)
