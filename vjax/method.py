"""How a video is sampled: what was asked for, what the model prefers, what the request needs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vjax import flow, sampler, solvers, validation
from vjax.canvas import Canvas
from vjax.config import SamplerConfig
from vjax.order import SAMPLING
from vjax.parallel import mesh as meshes
from vjax.planning import Plan
from vjax.tiles import Tiles
from vjax.timeline import RequestError

# What moves from one text to another takes more of the guidance that is usual: published settings
# are 13.5 where 7 is usual and 5.5 where 3.5 is (arXiv:2412.08629).
MOVED_GUIDANCE = 1.5


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """How to sample, checked."""

    config: SamplerConfig
    solver: solvers.Solver
    times: Float[Array, " times"]
    told: Float[Array, "times-1"] | None = None  # of times to the network, see `sampler.advance`
    tiles: Tiles | None = None  # None: the model makes the picture at once

    @property
    def steps(self) -> int:
        return self.times.size - 1

    def parts(
        self, boundary: float | None, begin: Any, end: Any
    ) -> list[tuple[str, Any, Any, float]]:
        """Which of the steps `begin` to `end` - 1 which expert makes, and under which guidance."""
        guidance = self.config.guidance
        if boundary is None:
            return [("dit", begin, end, guidance)]
        low = guidance if self.config.low_guidance is None else self.config.low_guidance
        clock = self.times[:-1] if self.told is None else self.told
        change = np.int32((meshes.readable(clock) >= np.float32(boundary)).sum())
        parts = [
            ("dit", begin, min(end, change), guidance),
            ("low", max(begin, change), end, low),
        ]
        return [part for part in parts if part[1] < part[2]]


def of(plan: Plan, preferred: SamplerConfig, asked: Mapping[str, Any]) -> Method:
    """The method for a plan, whose timeline may prefer a guidance of its own.

    Args:
        preferred: by the model.
        asked: values for fields of a `SamplerConfig`; None, or none: as preferred.

    Raises:
        RequestError: a value that is none, or a solver that was asked for and cannot serve.
    """
    said = plan.timeline
    if said.guidance is not None:
        preferred = dataclasses.replace(preferred, guidance=said.guidance, low_guidance=None)
    try:
        asked = dict.fromkeys(SAMPLING) | dict(asked)
        method = choose(plan.canvas, preferred, asked, bool(said.source_prompt))
    except ValueError as error:
        raise RequestError(str(error)) from error
    return dataclasses.replace(method, tiles=plan.tiles)


def choose(
    canvas: Canvas, preferred: SamplerConfig, asked: dict[str, Any], moved: bool = False
) -> Method:
    """The method for a canvas.

    Where something is known to a degree, a preferred solver that cannot serve it gives way to
    Euler's; what moves from one text to another is guided more than is preferred. Times begin where
    the first token does: before, the network would be asked for nothing.

    Args:
        asked: values for fields of a `SamplerConfig`; None: as preferred. A guidance is that of
            both experts, unless that of the second is asked for too.
        moved: whether what is given moves from one text to another.

    Raises:
        ValueError: a value that is none, or a solver that was asked for and cannot serve.
    """
    used = {name: getattr(preferred, name) if v is None else v for name, v in asked.items()}
    config = validation.from_dict(SamplerConfig, {**dataclasses.asdict(preferred), **used})
    if asked["guidance"] is not None and asked["low_guidance"] is None:
        config = dataclasses.replace(config, low_guidance=None)
    solver = solvers.SOLVERS[config.solver]
    moved &= canvas.departs
    gives_way = solver.needs_one_clock or (moved and solver.adds_noise)
    if asked["solver"] is None and gives_way and canvas.departs:
        solver = solvers.EULER
        config = dataclasses.replace(config, solver=solver.name)
    if moved and asked["guidance"] is None:
        names = (name for name in ("guidance", "low_guidance") if asked[name] is None)
        usual = {name: getattr(config, name) or 1 for name in names}
        more = {name: MOVED_GUIDANCE * value for name, value in usual.items() if value > 1}
        config = dataclasses.replace(config, **more)
    for given in canvas.given:
        for strength in given.strength.blocks():
            sampler.check(solver, strength, moved)
    if config.schedule in ("diffusers", "skyreels") and solver is solvers.UNIPC:
        exact = flow.diffusers_schedule(config.steps, config.shift)
        told = jnp.asarray(flow.told_by_diffusers(exact), jnp.float32)
        if config.schedule == "skyreels":
            solver = solvers.UNIPC_IN_PLACE
        return Method(config, solver, jnp.asarray(exact, jnp.float32), told)
    times = flow.schedule(config.steps, config.shift)
    if config.schedule == "flow_match" and solver is solvers.EULER:
        exact = flow.diffusers_euler_schedule(config.steps, config.shift)
        times = jnp.asarray(exact, jnp.float32)
    begin = np.float32(1) - np.float32(canvas.weakest)
    if 0 < begin < 1:
        times = jnp.concatenate([jnp.asarray(begin)[None], times[times < begin]])
    return Method(config, solver, times)
