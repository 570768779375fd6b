import dataclasses
import functools
import io
import itertools
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console

from vjax import flow, models, progress, sampler, solvers
from vjax.config import DiTConfig

B, T, H, W, C = 2, 3, 4, 4, 4


def normal(*shape, seed=0):
    # Not jax.random, which compiles for every shape.
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


NOISE, SOURCE = normal(B, T, H, W, C), normal(B, T, H, W, C, seed=1)
TIMES = flow.schedule(4, 2.0)
ALL = [solvers.EULER, solvers.HEUN, solvers.UNIPC]


def condition(strength=0.0, batch=B, **changes):
    """A request of which everything is known to a degree; one strength, or one for each frame."""
    text = normal(2, batch, 5, 6, seed=2)
    strength = np.broadcast_to(np.float32(strength), (T,)).reshape(1, T, 1, 1, 1)
    fields = {
        "source": normal(batch, T, H, W, C, seed=1),
        "strength": np.broadcast_to(strength, (batch, T, 1, 1, 1)),
        "anchors": np.zeros((batch, 0, H, W, C), np.float32),
        "positions": np.broadcast_to(np.arange(T, dtype=np.float32), (batch, T)),
        "anchor_positions": np.zeros((batch, 0), np.float32),
        "text": text[0],
        "negative": text[1],
    }
    ring = changes.pop("ring", False)
    fields = {name: jnp.asarray(value) for name, value in (fields | changes).items()}
    return sampler.Condition(**fields, ring=ring)


def toy_velocity(latents, t, text, positions, anchors, anchor_positions):
    """Depends on all that a network depends on, and mixes the tokens of a sample."""
    t = t[:, :, None, None, None] if t.ndim == 2 else t[..., None]
    mean = latents.mean(axis=(1, 2, 3, 4), keepdims=True)
    words = text.mean(axis=(1, 2))[:, None, None, None, None]
    return jnp.sin(latents + t) + mean + words + 0.1 * positions[:, :, None, None, None]


@functools.partial(jax.jit, static_argnames=("velocity", "solver"))
def sample(condition, noise, times, guidance=None, *, velocity=toy_velocity, solver):
    scale = 1.0 if guidance is None else guidance
    return sampler.sample(velocity, condition, noise, times, solver=solver, guidance=scale)


@pytest.mark.parametrize("solver", ALL, ids=lambda solver: solver.name)
def test_the_loop_equals_a_python_loop_with_the_rule_written_out(solver):
    known = condition([1.0, 0.0, 0.0] if solver.needs_one_clock else [1.0, 0.35, 0.0])
    strength = np.broadcast_to(known.strength, (B, T, H, W, 1))

    def own(t):
        return jnp.minimum(t, 1 - strength)

    def keep(x):
        return jnp.where(strength == 1, known.source, x)

    def velocity(x, t):
        t = own(t) if solver.needs_one_clock else t
        return toy_velocity(keep(x), t[..., 0], known.text, known.positions, None, None)

    tau = own(TIMES[0])
    state = solver.init((1 - tau) * known.source + tau * NOISE)
    for t, t_next in itertools.pairwise(TIMES):
        pair = (t, t_next) if solver.needs_one_clock else (own(t), own(t_next))
        state = solver.step(state, velocity, *pair)

    latents = sample(known, NOISE, TIMES, solver=solver)
    np.testing.assert_allclose(latents, keep(state.x), atol=1e-5)
    # Frame by frame or latent by latent, a strength means the same.
    dense = dataclasses.replace(known, strength=jnp.asarray(strength))
    np.testing.assert_allclose(sample(dense, NOISE, TIMES, solver=solver), latents, atol=1e-6)


@pytest.mark.parametrize("solver", ALL, ids=lambda solver: solver.name)
def test_known_tokens_come_back_bit_for_bit_whatever_the_network_says(solver):
    def wild(latents, t, text, **known):
        # What a network says about known tokens is not trained, and may be anything.
        at_zero = t[:, :, None, None, None] == 0
        return jnp.where(at_zero, jnp.nan, toy_velocity(jnp.nan_to_num(latents), t, text, **known))

    source = SOURCE.at[0, 0, 0, 0, 0].set(-0.0)
    known = condition([1.0, 0.0, 1.0], source=source)
    latents = np.asarray(sample(known, NOISE, TIMES, velocity=wild, solver=solver))
    for frame in (0, 2):
        assert latents[:, frame].tobytes() == np.asarray(source[:, frame]).tobytes()
    assert np.all(np.isfinite(latents))
    assert np.abs(latents[:, 1] - source[:, 1]).min() > 0


def test_a_partial_strength_departs_from_its_point_of_the_path_and_waits_there():
    known = condition([0.6, 0.2, 0.0])
    seen = []

    def velocity(latents, t, text, **known):
        jax.debug.callback(lambda x, t: seen.append((x, t)), latents, t, ordered=True)
        return jnp.ones_like(latents)

    latents = sample(known, NOISE, flow.schedule(4), velocity=velocity, solver=solvers.EULER)
    jax.effects_barrier()
    expected = [[0.4, 0.8, 1.0], [0.4, 0.75, 0.75], [0.4, 0.5, 0.5], [0.25, 0.25, 0.25]]
    np.testing.assert_allclose([t[0] for _, t in seen], expected, atol=1e-6)
    for x, tau in zip([x for x, _ in seen], expected, strict=True):
        tau = np.array(tau)[None, :, None, None, None]
        departure = np.array([0.4, 0.8, 1.0])[None, :, None, None, None]
        start = (1 - departure) * SOURCE + departure * NOISE
        np.testing.assert_allclose(x, start - (departure - tau), atol=1e-5)
    np.testing.assert_allclose(latents, start - departure, atol=1e-5)


def flow_edit(velocity, source, noises, times, guidances):
    """FlowEdit as published (arXiv:2412.08629, algorithm 1), in numpy, with given noises.

    `velocity(x, t, which, guidance)` is that of the source's text or of the target's.
    """
    moved = np.array(source, np.float64)
    for t, t_next, noise in zip(times[:-1], times[1:], noises, strict=True):
        noisy_source = (1 - t) * source + t * noise
        noisy_target = moved + noisy_source - source
        from_source = velocity(noisy_source, t, "source", guidances[0])
        to_target = velocity(noisy_target, t, "target", guidances[1])
        moved = moved + (t_next - t) * (to_target - from_source)
    return moved


@pytest.mark.parametrize("guidance", [None, 6.0])
def test_what_moves_between_texts_moves_as_published(guidance):
    keys = jax.random.split(jax.random.key(3), B)
    other = normal(B, 5, 6, seed=7)
    known = condition(1 - TIMES[0] * 0.7)
    known = dataclasses.replace(known, origin=sampler.Origin(known.source, other, keys))
    times = np.concatenate([[0.7], TIMES[TIMES < 0.7]]).astype(np.float32)
    found = sample(known, NOISE, jnp.asarray(times), guidance, solver=solvers.EULER)

    texts = {"target": known.text, "source": other}

    def velocity(x, t, which, scale):
        def of(text):
            x32, t_all = jnp.asarray(x, jnp.float32), jnp.full((B, T), t, jnp.float32)
            positions = known.positions
            return np.asarray(toy_velocity(x32, t_all, text, positions, None, None), np.float64)

        free = of(known.negative)
        return free + scale * (of(texts[which]) - free)

    noises = [
        np.stack([jax.random.normal(jax.random.fold_in(key, n), (T, H, W, C)) for key in keys])
        for n in range(len(times) - 1)
    ]
    scales = (1, 1) if guidance is None else (6.0 * sampler.ORIGIN_GUIDANCE, 6.0)
    expected = flow_edit(velocity, np.asarray(SOURCE, np.float64), noises, times, scales)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    # The same text twice and no guidance: nothing moves.
    if guidance is None:
        origin = dataclasses.replace(known.origin, text=known.text)
        still = dataclasses.replace(known, origin=origin)
        same = sample(still, NOISE, jnp.asarray(times), solver=solvers.EULER)
        np.testing.assert_allclose(same, SOURCE, atol=1e-5)


def test_what_is_kept_or_unknown_is_as_ever_where_the_rest_moves():
    keys = jax.random.split(jax.random.key(3), B)
    known = condition([1.0, 0.4, 0.0])
    before, seen = normal(B, T, H, W, C, seed=9), []
    known = dataclasses.replace(known, origin=sampler.Origin(before, known.negative, keys))

    def velocity(latents, t, text, **others):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), latents, ordered=True)
        return toy_velocity(latents, t, text, others["positions"], None, None)

    found = sample(known, NOISE, TIMES, velocity=velocity, solver=solvers.EULER)
    jax.effects_barrier()
    np.testing.assert_array_equal(found[:, 0], SOURCE[:, 0])
    for there, here in zip(seen[::2], seen[1::2], strict=True):
        np.testing.assert_array_equal(there[:, 0], SOURCE[:, 0])  # made in an earlier window
        np.testing.assert_array_equal(here[:, 0], before[:, 0])  # what it was made from
    np.testing.assert_array_equal(seen[0][:, 2], NOISE[:, 2])


@pytest.mark.parametrize("solver", [solvers.UNIPC, solvers.STOCHASTIC])
def test_what_moves_between_texts_takes_a_solver_without_noise_or_memory(solver):
    with pytest.raises(ValueError, match="use euler or heun"):
        sampler.check(solver, np.zeros(1), moved=True)
    sampler.check(solvers.EULER, np.full(1, 0.5), moved=True)


def test_the_network_gets_the_time_of_each_frame_or_of_each_latent():
    shapes = []

    def velocity(latents, t, text, **known):
        shapes.append(t.shape)
        return latents

    mask = jnp.zeros((B, T, H, W, 1)).at[:, :, :2].set(1.0)
    for known in (condition(), dataclasses.replace(condition(), strength=mask)):
        sample(known, NOISE, TIMES, velocity=velocity, solver=solvers.EULER)
    assert set(shapes) == {(B, T), (B, T, H, W)}


def test_guidance_is_one_call_on_pairs_and_off_at_one():
    batches = []

    def velocity(latents, t, text, positions, **known):
        batches.append(latents.shape[0])
        return toy_velocity(latents, t, text, positions, None, None)

    known, scale = condition([1.0, 0.0, 0.0]), 3.0
    guided = sample(known, NOISE, TIMES, scale, velocity=velocity, solver=solvers.EULER)
    assert set(batches) == {2 * B}

    state = sampler.start(known, NOISE, TIMES[0], solver=solvers.EULER)
    for t, t_next in itertools.pairwise(TIMES):
        tau, tau_next = (jnp.minimum(time, 1 - known.strength) for time in (t, t_next))
        at = (tau[..., 0, 0, 0], known.text, known.positions, None, None)
        negative = (at[0], known.negative, *at[2:])
        with_text, without = (toy_velocity(state.x, *args) for args in (at, negative))
        v = without + scale * (with_text - without)
        state = solvers.OneStep(state.x + (tau_next - tau) * v)
    np.testing.assert_allclose(guided, state.x, atol=1e-5)

    batches.clear()
    plain = sample(known, NOISE, TIMES, velocity=velocity, solver=solvers.EULER)
    assert set(batches) == {B}
    one = sample(known, NOISE, TIMES, 1.0, velocity=velocity, solver=solvers.EULER)
    np.testing.assert_allclose(plain, one, atol=1e-5)


def gaussian_velocity(latents, t, text, **known):
    mean, std, t = 0.7, 0.4, t[:, :, None, None, None]
    variance = (1 - t) ** 2 * std**2 + t**2
    return (t - (1 - t) * std**2) / variance * (latents - (1 - t) * mean) - mean


@pytest.mark.parametrize("solver", ALL, ids=lambda solver: solver.name)
def test_samples_have_the_mean_and_deviation_of_the_data(solver):
    noise = normal(64, T, H, W, C)
    latents = sample(
        condition(batch=64), noise, flow.schedule(64), velocity=gaussian_velocity, solver=solver
    )
    # Against the noise's own moments, so that 12,288 numbers do not blur the picture.
    tolerance = 0.02 if solver is solvers.EULER else 0.001
    np.testing.assert_allclose(latents.mean(), 0.7 + 0.4 * noise.mean(), atol=tolerance)
    np.testing.assert_allclose(latents.std(), 0.4 * noise.std(), atol=tolerance)


def test_multistep_solvers_refuse_strengths_between():
    between = np.array([0.0, 0.4, 1.0])
    with pytest.raises(ValueError, match=r"unipc.*0.4: use euler or heun"):
        sampler.check(solvers.UNIPC, between)
    sampler.check(solvers.UNIPC, between[[0, 2]])
    sampler.check(solvers.HEUN, between)
    with pytest.raises(ValueError, match=r"from -0.5 to 1"):
        sampler.check(solvers.EULER, between - np.array([0.5, 0, 0]))


@functools.partial(jax.jit, donate_argnames="state")
def advance(condition, state, begin, end):
    return sampler.advance(
        toy_velocity, condition, state, TIMES, begin, end, solver=solvers.UNIPC, guidance=2.0
    )


def start(known):
    return sampler.start(known, NOISE, TIMES[0], solver=solvers.UNIPC)


def test_pieces_are_one_executable_and_give_the_same_bytes():
    known, steps = condition([1.0, 0.0, 0.0]), TIMES.size - 1
    whole = advance(known, start(known), np.int32(0), np.int32(steps))
    heard = []
    with progress.Steps(steps, on_step=heard.append) as watched:
        pieces = watched.run(functools.partial(advance, known), start(known), steps)
    assert heard == [1, 2, 3, 4]
    with progress.Steps(steps) as watched:
        free = watched.run(functools.partial(advance, known), start(known), steps)
    assert whole.x.tobytes() == pieces.x.tobytes() == free.x.tobytes()
    assert advance._cache_size() == 1
    # A program that calls the host back is not kept between processes.
    assert "callback" not in advance.lower(known, start(known), np.int32(0), np.int32(1)).as_text()


def test_a_caller_stops_the_run_and_ctrl_c_does():
    calls = []

    def counted(state, begin, end):
        calls.append((int(begin), int(end)))
        return state

    def stop(step):
        return step == 4

    # Over all of a request's loops.
    with progress.Steps(50, on_step=stop) as watched:
        watched.run(counted, 0.0, 3)
        with pytest.raises(progress.Cancelled, match="after 4 of 50"):
            watched.run(counted, 0.0, 3)
    assert calls == [(0, 1), (1, 2), (2, 3), (0, 1)]

    calls.clear()
    pressed = threading.Event()

    def slow(state, begin, end):
        calls.append(int(begin))
        if not pressed.is_set():
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            pressed.set()
        threading.Event().wait(0.2)
        return state

    # A process in the background of a shell ignores the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with progress.Steps(50) as watched, pytest.raises(KeyboardInterrupt):
            watched.run(slow, 0.0, 50)
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [0]


def test_a_bar_is_drawn_on_a_terminal_only():
    def counted(state, begin, end):
        return state

    for terminal in (True, False):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=terminal, width=80)
        with progress.Steps(14, description="denoising", console=console) as watched:
            watched.run(counted, 0.0, 7)
            watched.run(counted, 0.0, 7)
        assert ("denoising" in screen.getvalue() and "14/14" in screen.getvalue()) == terminal


def test_what_takes_long_says_that_it_compiles_and_without_a_terminal_how_far_it_is(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_TO_COMPILE", 0.01)
    monkeypatch.setattr(progress, "SECONDS_TO_SAY", 0.0)
    screen, said = io.StringIO(), threading.Event()

    def slow(state, begin, end):
        if begin == 0:
            said.wait(timeout=10)
        return state

    class Watched(Console):
        def print(self, *text, **how):
            super().print(*text, **how)
            said.set()

    with progress.Steps(40, console=Watched(file=screen), on_step=lambda _: None) as watched:
        watched.run(slow, 0.0, 40)
    lines = screen.getvalue().splitlines()
    assert lines[0].startswith("compiling")
    assert lines[1:] == [f"sampling: {n} of 40 steps" for n in range(4, 40, 4)]


def test_sharded_over_eight_devices_equals_unsharded_without_moving_samples():
    config = DiTConfig(
        width=16, depth=2, heads=2, head_dim=8, ffn=32, in_channels=C, out_channels=C,
        text_width=6, anchors=True,
    )  # fmt: skip
    # Not as initialised: the head starts at zero, which no error could show through.
    params = jax.tree.map(lambda x: 0.3 * normal(*x.shape), models.abstract(config))
    anchors = {"anchors": jnp.ones((8, 1, H, W, C)), "anchor_positions": jnp.full((8, 1), 7.0)}
    known = condition([1.0, 0.4, 0.0], batch=8, **anchors)
    noise = normal(8, T, H, W, C)

    @jax.jit
    def run(params, known, noise):
        network = models.bind(config, params)
        return sampler.sample(network, known, noise, TIMES, solver=solvers.EULER, guidance=4.0)

    mesh = Mesh(np.array(jax.devices()), ("data",))
    batch, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    spread = (jax.device_put(params, everywhere), *jax.device_put((known, noise), batch))
    expected = np.asarray(run(params, known, noise))
    assert np.std(expected[:, 2]) > 0.1
    program = run.lower(*spread).compile()
    np.testing.assert_allclose(program(*spread), expected, atol=1e-5 * np.abs(expected).max())
    for collective in ("all-to-all", "collective-permute", "all-gather"):
        assert collective not in program.as_text()


@pytest.mark.parametrize("solver", ALL, ids=lambda solver: solver.name)
def test_each_step_sees_a_ring_from_another_frame_on(solver):
    def alone(latents, t, text, positions, anchors, anchor_positions, place=T):
        assert positions.shape == t.shape == (B, T + 1)
        same = (latents[:, :1] == latents[:, -1:]).all()  # it is closed
        return (positions == place)[..., None, None, None] * jnp.ones_like(latents) * same

    ring = condition(ring=True)
    first = functools.partial(alone, place=0)  # what it says of that, it says without a past
    found = sample(ring, NOISE, TIMES, velocity=first, solver=solver)
    np.testing.assert_allclose(found, NOISE, atol=1e-5)
    found = sample(ring, NOISE, TIMES, velocity=alone, solver=solver)
    moved = np.asarray(found - NOISE)[:, :, 0, 0, 0]
    expected = np.zeros(T)
    for number, (now, then) in enumerate(itertools.pairwise(np.asarray(TIMES))):
        expected[number % T] += then - now
    if solver is not solvers.UNIPC:  # which goes on from what it saw before
        np.testing.assert_allclose(moved, np.broadcast_to(expected, moved.shape), atol=1e-6)

    # What a frame hears turns with it; what an anchor hears stays.
    def heard(latents, t, text, positions, anchors, anchor_positions, text_bias):
        assert text_bias.shape == (B, T + 2, 5)
        words = text_bias[:, : T + 1, 0] + text_bias[:, T + 1 :, 0]
        return words[..., None, None, None] * jnp.ones_like(latents)

    said = np.broadcast_to(np.arange(1.0, T + 2, dtype=np.float32)[:, None], (B, T + 1, 5))
    spoken = condition(ring=True, text_bias=said, anchors=np.ones((B, 1, H, W, C), np.float32))
    found = sample(spoken, NOISE, TIMES, velocity=heard, solver=solver)
    moved = np.asarray(found - NOISE)[:, :, 0, 0, 0]
    np.testing.assert_allclose(moved, np.broadcast_to(-5 - np.arange(T), (B, T)), atol=1e-5)

    # What treats all frames alike does not notice.
    def same(latents, *_, **__):
        return jnp.sin(latents)

    alike = sample(ring, NOISE, TIMES, velocity=same, solver=solver)
    plain = sample(condition(), NOISE, TIMES, velocity=same, solver=solver)
    np.testing.assert_allclose(alike, plain, atol=1e-6)


@pytest.mark.parametrize("solver", [solvers.EULER, solvers.UNIPC], ids=lambda solver: solver.name)
def test_a_network_with_one_time_sees_what_is_known_in_the_noise_of_that_time(solver):
    strengths = [1.0, 0.0, 0.0] if solver.needs_one_clock else [1.0, 0.35, 0.0]
    known = condition(strengths)
    told = jnp.floor(10 * TIMES[:-1]) / 10
    heard = iter(told)

    def velocity(x, t):
        return toy_velocity(
            x, jnp.full((B, T), next(heard)), known.text, known.positions, None, None
        )

    state = solver.init(NOISE)
    for t, t_next in itertools.pairwise(TIMES):
        in_noise = (1 - t) * known.source + t * NOISE
        state = dataclasses.replace(state, x=jnp.where(t > 1 - known.strength, in_noise, state.x))
        state = solver.step(state, velocity, t, t_next)
    expected = jnp.where(known.strength == 1, known.source, state.x)

    seen = dataclasses.replace(known, noise=NOISE)
    found = sampler.sample(toy_velocity, seen, NOISE, TIMES, solver=solver, told=told)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_moves_is_in_noise_once():
    def same(latents, *_, **__):
        return jnp.sin(latents)

    # A network that hears no text sees the same twice, so that nothing moves.
    known = condition(0.6)
    keys = jax.random.split(jax.random.key(0), B)
    origin = sampler.Origin(known.source, known.negative, keys)
    for noise in (None, NOISE):
        moving = dataclasses.replace(known, origin=origin, noise=noise)
        found = sample(moving, NOISE, TIMES, 3.0, velocity=same, solver=solvers.EULER)
        np.testing.assert_allclose(found, known.source, atol=1e-5)


def test_what_a_network_takes_beside_is_the_same_for_both_texts():
    def velocity(latents, t, text, extra, **known):
        return toy_velocity(latents, t, text, **known) + extra[:, None, None, None, None]

    plain, extra = condition(), normal(B, seed=7)
    seen = dataclasses.replace(plain, inputs={"extra": extra})
    run = functools.partial(sample, solver=solvers.EULER)
    found = run(seen, NOISE, TIMES, 3.0, velocity=velocity)
    by_hand = functools.partial(velocity_with, extra=extra)
    state = NOISE
    for t, t_next in itertools.pairwise(TIMES):
        at = jnp.full((B, T), t)
        both = [by_hand(state, at, text, plain.positions) for text in (plain.text, plain.negative)]
        state = state + (t_next - t) * (both[1] + 3.0 * (both[0] - both[1]))
    np.testing.assert_allclose(found, state, atol=1e-5)


def velocity_with(latents, t, text, positions, extra):
    plain = toy_velocity(latents, t, text, positions, None, None)
    return plain + extra[:, None, None, None, None]
