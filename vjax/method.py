"""How a video is sampled: what was asked for, what the model prefers, what the request needs."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vjax import flow, sampler, solvers, validation
from vjax.canvas import Canvas
from vjax.config import SamplerConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """How to sample, checked."""

    config: SamplerConfig
    solver: solvers.Solver
    times: Float[Array, " times"]

    @property
    def steps(self) -> int:
        return self.times.size - 1


def choose(canvas: Canvas, preferred: SamplerConfig, asked: dict[str, Any]) -> Method:
    """The method for a canvas.

    Where something is known to a degree, a preferred solver that cannot serve it gives way to
    Euler's. Times begin where the first token does: before, the network would be asked for nothing.

    Args:
        asked: values for fields of a `SamplerConfig`; None: as preferred.

    Raises:
        ValueError: a value that is none, or a solver that was asked for and cannot serve.
    """
    used = {name: getattr(preferred, name) if v is None else v for name, v in asked.items()}
    config = validation.from_dict(SamplerConfig, used)
    solver = solvers.SOLVERS[config.solver]
    if asked["solver"] is None and solver.needs_one_clock and canvas.departs:
        solver = solvers.EULER
        config = dataclasses.replace(config, solver=solver.name)
    for given in canvas.given:
        sampler.check(solver, given.strength)
    times = flow.schedule(config.steps, config.shift)
    begin = np.float32(1) - np.float32(canvas.weakest)
    if 0 < begin < 1:
        times = jnp.concatenate([jnp.asarray(begin)[None], times[times < begin]])
    return Method(config, solver, times)
