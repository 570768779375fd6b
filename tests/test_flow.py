import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vjax import flow

KEY = jax.random.key(0)


def test_the_path_has_its_ends_its_velocity_and_its_data():
    x0, noise = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 4, 5), np.float32)
    x0, noise = jnp.asarray(x0), jnp.asarray(noise)
    t = jnp.array([0.0, 1.0])[:, None, None, None, None]
    ends = flow.interpolate(x0, noise, t)
    np.testing.assert_array_equal(ends[0], x0[0])
    np.testing.assert_array_equal(ends[1], noise[1])

    v = flow.velocity(x0, noise)
    slope = (flow.interpolate(x0, noise, 0.75) - flow.interpolate(x0, noise, 0.25)) / 0.5
    np.testing.assert_allclose(v, slope, atol=1e-5)
    data = flow.data_from_velocity(flow.interpolate(x0, noise, 0.3), v, 0.3)
    np.testing.assert_allclose(data, x0, atol=1e-5)


def test_guidance_of_one_and_zero_are_the_two_branches():
    conditional, unconditional = jnp.linspace(-1, 1, 7), jnp.linspace(3, 2, 7)

    def guide(scale):
        return flow.guide(conditional, unconditional, scale)

    np.testing.assert_allclose(guide(1.0), conditional, atol=1e-6)
    np.testing.assert_array_equal(guide(0.0), unconditional)
    np.testing.assert_allclose(
        guide(3.0) - guide(1.0), 2 * (conditional - unconditional), atol=1e-5
    )


def test_a_shift_is_a_translation_of_logits():
    t = jnp.linspace(0.05, 0.95, 19)

    def logit(t):
        return jnp.log(t / (1 - t))

    np.testing.assert_allclose(
        logit(flow.shift_time(t, 5.0)), logit(t) + jnp.log(5.0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (7, 1.0), (50, 5.0), (30, 12)])
def test_a_schedule_falls_from_exactly_one_to_exactly_zero(steps, shift):
    times = np.asarray(flow.schedule(steps, shift))
    assert times.shape == (steps + 1,)
    assert times[0] == 1
    assert times[-1] == 0
    assert np.all(np.diff(times) < 0)


def test_published_schedules_are_as_published():
    with np.load(pathlib.Path(__file__).parent / "data" / "solvers.npz") as oracle:
        diffusers = oracle["unipc_20_5_sigmas"]
    np.testing.assert_allclose(flow.diffusers_schedule(20, 5.0), diffusers, atol=2e-7)


def test_training_times_follow_their_distribution():
    sample = jax.jit(flow.sample_times, static_argnames=("shape", "distribution"))

    def draw(tokens, **fields):
        return np.asarray(
            sample(KEY, (20_000,), tokens=tokens, distribution=flow.TimeDistribution(**fields))
        )

    def logit(t):
        return np.log(t / (1 - t))

    for tokens, exponent in ((0, 0.0), (512, 0.475), (1024, 0.95), (2560, 1.5), (9999, 2.05)):
        logits = logit(draw(tokens, uniform_share=0.0, mean=0.25, std=0.5))
        np.testing.assert_allclose(logits.mean(), 0.25 + exponent, atol=0.02)
        np.testing.assert_allclose(logits.std(), 0.5, atol=0.02)

    uniform = draw(1024, uniform_share=1.0)
    np.testing.assert_allclose(np.quantile(uniform, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)
    # A narrow bump near 0.72 holds nothing below 0.5 but the uniform share does.
    mixed = draw(1024, std=0.01, uniform_share=0.1)
    np.testing.assert_allclose(np.mean(mixed < 0.5), 0.05, atol=0.01)


def test_small_grids_are_shifted_gently_and_tokens_may_be_traced():
    distribution = flow.TimeDistribution()
    shifts = [float(jax.jit(distribution.shift)(tokens)) for tokens in (180, 650, 4096, 80_000)]
    np.testing.assert_allclose(shifts, [1.182, 1.828, 7.768, 7.768], atol=1e-3)
