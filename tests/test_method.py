"""How videos are sampled: what is preferred gives way where it cannot serve."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from vjax import flow, method, planning
from vjax.config import SamplerConfig
from vjax.timeline import Gap, Piece, Timeline

PREFERRED = SamplerConfig(solver="unipc", steps=8, guidance=2.0, shift=3.0)


def choose(*strengths: float, gap: bool = False, moved: bool = False, **asked) -> method.Method:
    pieces = [Piece(tiny.clip(4), np.full((4, 1, 1, 1), s, np.float32)) for s in strengths]
    film = (*pieces, Gap(1)) if gap else tuple(pieces) or (Gap(),)
    canvas = planning.plan(Timeline("a", film), tiny.MODEL).canvas
    nothing = dict.fromkeys(("solver", "steps", "guidance", "shift"))
    return method.choose(canvas, PREFERRED, nothing | asked, moved)


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
