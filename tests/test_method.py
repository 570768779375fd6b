"""How videos are sampled: what is preferred gives way where it cannot serve."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vjax import flow, method, planning
from vjax.config import SamplerConfig
from vjax.order import SAMPLING
from vjax.timeline import Gap, Piece, RequestError, Timeline

PREFERRED = SamplerConfig(solver="unipc", steps=8, guidance=2.0, shift=3.0)


def choose(
    *strengths: float, gap: bool = False, moved: bool = False, preferred=PREFERRED, **asked
) -> method.Method:
    pieces = [Piece(tiny.clip(4), np.full((4, 1, 1, 1), s, np.float32)) for s in strengths]
    film = (*pieces, Gap(1)) if gap else tuple(pieces) or (Gap(),)
    canvas = planning.plan(Timeline("a", film), tiny.MODEL).canvas
    nothing = dict.fromkeys(SAMPLING)
    return method.choose(canvas, preferred, nothing | asked, moved)


def test_what_is_asked_for_goes_before_what_is_preferred():
    assert choose().config == PREFERRED
    found = choose(steps=3, guidance=1, solver="heun")
    assert (found.config.steps, found.config.guidance, found.solver.name) == (3, 1, "heun")
    with pytest.raises(ValueError, match="magic"):
        choose(solver="magic")


def test_a_solver_of_one_clock_serves_what_is_kept_or_made_and_gives_way_elsewhere():
    assert choose(1.0, 0.0).solver.name == "unipc"
    assert choose(1.0, 0.3).config.solver == "euler"
    assert choose(0.3, solver="heun").solver.name == "heun"
    with pytest.raises(ValueError, match="use euler or heun"):
        choose(0.3, solver="unipc")


def test_times_begin_where_the_first_token_does():
    whole = flow.schedule(8, 3.0)
    for every in (choose(), choose(1.0, 0.0), choose(0.4, gap=True), choose(1.0)):
        np.testing.assert_array_equal(every.times, whole)
    cut = choose(0.4, 0.7)
    assert cut.times[0] == np.float32(0.6)
    np.testing.assert_array_equal(cut.times[1:], whole[whole < 0.6])
    assert cut.steps == int(jnp.sum(whole < 0.6))


def test_what_moves_from_text_to_text_is_guided_more_and_by_euler():
    found = choose(0.4, moved=True)
    assert (found.config.solver, found.config.guidance) == ("euler", 3.0)
    assert choose(0.4, moved=True, guidance=2).config.guidance == 2
    assert choose(1.0, 0.0, moved=True).config == PREFERRED  # nothing moves
    with pytest.raises(ValueError, match="use euler or heun"):
        choose(0.4, moved=True, solver="stochastic")


def test_what_is_asked_of_one_expert_is_that_of_both_unless_the_second_is_asked_too():
    preferred = dataclasses.replace(PREFERRED, low_guidance=1.0)

    def guidance(**asked):
        found = choose(0.4, preferred=preferred, **asked)
        return [each[3] for each in found.parts(0.5, 0, found.steps)], found.config.guided

    assert guidance() == ([2, 1], True)
    assert guidance(guidance=1) == ([1, 1], False)
    assert guidance(guidance=1, low_guidance=3) == ([1, 3], True)
    assert guidance(low_guidance=3) == ([2, 3], True)
    assert guidance(moved=True) == ([3, 1], True)
    assert guidance(moved=True, low_guidance=3) == ([3, 3], True)
    low = dataclasses.replace(preferred, low_guidance=4.0)
    assert choose(0.4, moved=True, preferred=low).config.low_guidance == 6


def test_a_published_schedule_is_that_of_its_solver():
    preferred = dataclasses.replace(PREFERRED, solver="euler", schedule="flow_match")
    np.testing.assert_allclose(
        choose(preferred=preferred, shift=5.0, steps=4).times, [1, 0.91, 0.717, 0.024, 0], atol=1e-3
    )
    np.testing.assert_array_equal(
        choose(preferred=preferred, solver="heun").times, flow.schedule(8, 3.0)
    )


def test_a_timeline_prefers_for_both_experts_and_what_is_asked_for_goes_before_it():
    plan = planning.plan(Timeline("a", guidance=1.0), tiny.MODEL)
    preferred = dataclasses.replace(PREFERRED, low_guidance=3.0)
    assert not method.of(plan, preferred, {}).config.guided
    assert method.of(plan, preferred, {"guidance": 3.0}).config.guided
    with pytest.raises(RequestError, match="magic"):
        method.of(plan, preferred, {"solver": "magic"})
