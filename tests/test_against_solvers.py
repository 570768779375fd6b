"""Solvers beside diffusers' schedulers, step by step, on the times that each of them makes."""

import jax.numpy as jnp
import numpy as np
import pytest

from vjax import flow, solvers

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def scheduler(solver, shift):
    if solver == "euler":
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_the_steps_are_the_same(solver, steps, shift):
    theirs, ours = scheduler(solver, shift), solvers.SOLVERS[solver]
    if solver == "euler":
        times = flow.diffusers_euler_schedule(steps, shift)
    else:
        times = flow.diffusers_schedule(steps, shift)
    theirs.set_timesteps(steps)
    np.testing.assert_allclose(times, theirs.sigmas, atol=1e-6)
    random = np.random.RandomState(steps)
    x = random.standard_normal((2, 3, 4)).astype(np.float32)
    state, other = ours.init(jnp.asarray(x)), torch.from_numpy(x)
    for i, t in enumerate(theirs.timesteps):
        v = random.standard_normal(x.shape).astype(np.float32)
        state = ours.step(state, lambda x, t, v=v: jnp.asarray(v), *jnp.float32(times[i : i + 2]))
        other = theirs.step(torch.from_numpy(v), t, other, return_dict=False)[0]
        assert np.abs(state.x - other.numpy()).max() <= 1e-4 * np.abs(other.numpy()).max()
