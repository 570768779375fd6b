"""Tuning: a published model goes on learning, and what is saved is what others read."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_abilities
import tiny
import tiny_wan
from safetensors.numpy import load_file

import vjax
from vjax import loras, models, validation, weights
from vjax import train as trainer
from vjax.config import (
    Bucket,
    ConfigError,
    DiTLossConfig,
    Group,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    Stage,
)
from vjax.data import loader
from vjax.models import low_rank
from vjax.training import given, lora, tuning
from vjax.training.dit import DiTTask
from vjax.training.plan import Plan
from vjax.training.start import starting_point
from vjax.training.state import init_state, train_step
from vjax.video import fitting

SMALL = Bucket(frames=5, height=32, width=32, batch=8)
LORA = LoraConfig(rank=2, alpha=1.0)


def config(directory: pathlib.Path, init: str, bucket: Bucket = SMALL, **changes) -> RunConfig:
    rate = changes.pop("rate", 1e-2)
    found = RunConfig(
        name="run",
        trains="dit",
        model=ModelConfig("tuned"),
        stages=(Stage((Group((bucket,)),), 2, learning_rate=rate, warmup=1, ema=0.0),),
        init=init,
        lora=LORA,
        run_dir=str(directory),
        checkpoint_every=2,
        sample_every=0,
        log_every=0,
    )
    return dataclasses.replace(found, **changes)


def first_parts(begin, run: RunConfig):
    """What the first update of a run is made with."""
    plan, config = Plan(run.stages), begin.task.config
    return next(loader.batches(config, plan, tokenizer=begin.tokenizer, start=0, stop=1)).parts


def one_step(run: RunConfig):
    """The state before and after an update, and what it was made with."""
    begin = starting_point(run)
    task, parts = begin.task, first_parts(begin, run)
    before = jax.device_get(init_state(task, begin.given))
    state, metrics = train_step(task, init_state(task, begin.given), begin.frozen, parts, 1e-2, 0.0)
    return begin, before, jax.device_get(state), metrics


def test_a_lora_is_trained_alone_and_read_as_it_was_trained(tmp_path):
    name = tiny_wan.write(tmp_path / "t2v", "t2v")
    run = config(tmp_path / "runs", name)
    begin, before, after, metrics = one_step(run)
    assert np.isfinite(metrics["loss"])
    assert metrics["gradient_norm"] > 0
    assert begin.task.trained == ("lora",) == tuple(after["params"])
    targets = 2 * 4 + 2  # of the attentions and the ffn, stacked over the blocks
    moments = [x for x in jax.tree.leaves(after["optimizer"]) if np.ndim(x)]
    assert len(jax.tree.leaves(after["params"])) == 2 * targets == len(moments) // 2
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), before["params"], after["params"])
    kinds = {path[-1].key: [] for path, _ in jax.tree.leaves_with_path(moved)}
    for path, leaf in jax.tree.leaves_with_path(moved):
        kinds[path[-1].key].append(leaf)
    assert all(kinds["b"])
    assert not any(kinds["a"])

    lora.save(tmp_path / "lora", begin.task.config.model.dit, LORA, after["params"]["lora"])
    tensors = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert tensors["transformer.blocks.1.attn2.to_out.0.lora_A.weight"].shape == (2, tiny_wan.WIDTH)
    assert tensors["transformer.blocks.0.ffn.net.0.proj.lora_B.weight"].shape == (32, 2)
    assert len(tensors) == 2 * 2 * targets
    read = weights.load(name, ("dit",), loras.of([str(tmp_path / "lora")])).params["dit"]
    trained = low_rank.merged(begin.task.expert({**begin.frozen, **after["params"]}))
    for (path, x), y in zip(jax.tree.leaves_with_path(read), jax.tree.leaves(trained), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6, err_msg=str(path))
    base = weights.load(name, ("dit",)).params["dit"]["blocks"]["self_attention"]["q"]["kernel"]
    assert np.abs(read["blocks"]["self_attention"]["q"]["kernel"] - base).max() > 1e-4


def made(jaxpr) -> set[tuple[int, ...]]:
    """The shapes of all that a program computes, in its loops too."""
    found = set()
    for each in jaxpr.eqns:
        found |= {x.aval.shape for x in each.outvars}
        for value in jax.tree.leaves(list(each.params.values())):
            inner = getattr(value, "jaxpr", value)
            found |= made(inner) if hasattr(inner, "eqns") else set()
    return found


def test_a_block_adds_its_own_change_when_it_runs():
    dit, key = dataclasses.replace(tiny.MODEL.dit, remat=True), jax.random.key(0)
    params = jax.tree.map(jnp.asarray, tiny.params()["dit"])
    changes = lora.init(dit, LORA, key)
    changes = jax.tree.map(lambda x: x + 0.5, changes)
    z, text = jax.random.normal(key, (1, 2, 4, 4, 4)), jax.random.normal(key, (1, 3, 16))

    def square(changes, whole: bool = False):
        tree = lora.changed(params, changes, 0.5)
        velocity = models.velocity(dit, low_rank.merged(tree) if whole else tree, "float32")
        return (velocity(z, jnp.ones(1), text, positions=jnp.arange(2.0)) ** 2).sum()

    # There is no second copy of what is stacked, and no gradient of its size.
    stack = params["blocks"]["ffn"]["up"]["kernel"].shape
    for whole in (False, True):
        program = jax.make_jaxpr(jax.grad(functools.partial(square, whole=whole)))(changes)
        assert (stack in made(program.jaxpr)) == whole
        assert stack[1:] in made(program.jaxpr)
    value = jax.jit(square, static_argnums=1)
    np.testing.assert_allclose(value(changes, False), value(changes, True), rtol=1e-5)
    before = value(jax.tree.map(jnp.zeros_like, changes), False)
    assert abs(value(changes, False) / before - 1) > 0.01


@pytest.mark.parametrize("family", ["ti2v", "a14b", "skyreels", "flf2v", "vace"])
def test_each_family_has_gradients_of_what_it_trains(tmp_path, family):
    name = tiny_wan.write(tmp_path / family, family)
    side = 64 if family == "ti2v" else 32
    frames = 1 if family == "vace" else 5
    bucket = dataclasses.replace(SMALL, frames=frames, height=side, width=side)
    begin = starting_point(run := config(tmp_path / "runs", name, bucket))
    batch = first_parts(begin, run)[0][1]

    def loss(trained, frozen, batch):
        return begin.task.loss(bucket, {**frozen, **trained}, batch, jax.random.key(0))[0]

    found = jax.eval_shape(jax.grad(loss), begin.given, begin.frozen, batch)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, begin.given)


def test_a_model_of_ours_learns_as_it_did(tmp_path):
    weights.save(tmp_path / "own", tiny.bundle(), "float32")
    bucket = dataclasses.replace(SMALL, anchors=1, references=1)
    run = config(tmp_path / "runs", str(tmp_path / "own"), bucket, lora=None)
    begin = starting_point(run)
    params = {**begin.frozen, **begin.given}
    assert begin.task.trained == ("dit",) == tuple(begin.given)
    asked = params, first_parts(begin, run)[0][1], jax.random.key(1)
    made = DiTTask(begin.task.config)  # as in the run that made it
    programs = [
        str(jax.make_jaxpr(lambda *each, task=task: task.loss(bucket, *each))(*asked))
        for task in (begin.task, made)
    ]
    assert programs[0] == programs[1]
    alone = tuning.TuneTask(dataclasses.replace(begin.task.config, lora=LORA))
    assert 0.6 < alone.flops(bucket) / begin.task.flops(bucket) < 0.7
    begin.task.save(tmp_path / "tuned", params, begin.tokenizer, "so")
    tuned, whole = weights.load(str(tmp_path / "tuned")), weights.load(str(tmp_path / "own"))
    assert dataclasses.replace(tuned.config, name="tiny", origin="") == whole.config
    assert set(tuned.params) == set(whole.params)
    jax.tree.map(np.testing.assert_array_equal, tuned.params["vae"], whole.params["vae"])


REGION = np.zeros((32, 32), bool)
REGION[:12] = True  # is made anew


@pytest.mark.parametrize(
    ("kind", "ask", "known"),
    [
        ("first_frame", lambda clip: vjax.animate(clip[0], "a", frames=9), [0]),
        ("per_frame", lambda clip: vjax.infill(clip, "a", keep=[(0, 1), (8, 13)]), [0, 2, 3]),
        ("channels", lambda clip: vjax.animate(clip[0], "a", frames=9), [0]),
        ("first_last", lambda clip: vjax.infill(clip, "a", keep=[(0, 1), (8, 9)]), [0, 8]),
        ("control", lambda clip: vjax.infill(clip, "a", keep=[(0, 2), (7, 9)]), [0, 1, 7, 8]),
        ("control", lambda clip: vjax.inpaint(clip, "a", mask=REGION, character=[*clip[2:4]]), []),
    ],
)
def test_a_network_is_shown_what_the_sampler_shows_it(monkeypatch, kind, ask, known):
    frames = 13 if kind == "per_frame" else 9
    clip, pipe = tiny.clip(frames), test_abilities.pipe(kind)
    model, found = pipe.config, []

    def start(condition, *_):
        found.append(condition)
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(pipe, "start", start)
        with pytest.raises(InterruptedError):
            pipe(ask(clip))
    kept = jnp.zeros((1, 9, 1, 1, 1)).at[:, jnp.array(known, int)].set(1)
    start = jnp.zeros((1, 1 + frames // 4), bool).at[:, 0].set(True)
    end = jnp.zeros_like(start).at[:, 2:].set(True)
    monkeypatch.setattr(given, "ends", lambda *_: (start, end))
    if not known:
        kept = jnp.broadcast_to(1.0 - REGION[..., None], (1, 9, 32, 32, 1))
    monkeypatch.setattr(given, "kept", lambda *_: kept)

    def references(key, encode, video, wanted):
        return encode(video[0, 2:4, None])[None, :, 0]

    monkeypatch.setattr(given, "references", references)
    bucket = Bucket(frames, height=32, width=32, batch=1, references=0 if known else 2)
    task = tuning.TuneTask(RunConfig("run", "dit", model, ()))
    ids, mask = tiny.tokenizer(model.text.max_length)(["a"])
    batch = {"video": clip[None], "ids": ids, "mask": mask}
    if model.image is not None:
        batch["images"] = fitting.squares(clip[[0, 8]], model.image.side)[None]
    sees = jax.jit(lambda params, batch: task.known(bucket, params, batch, jax.random.key(0)))
    clean, trained = sees(tiny.params(model), batch)
    (sampled,) = found
    assert trained.inputs.keys() == sampled.inputs.keys()
    for name, wanted in sampled.inputs.items():
        np.testing.assert_allclose(trained.inputs[name], wanted, atol=2e-5, err_msg=name)
    for name in ("strength", "text", "positions"):
        np.testing.assert_allclose(getattr(trained, name), getattr(sampled, name), atol=1e-5)
    assert clean.shape == sampled.source.shape
    np.testing.assert_allclose(clean[0, -len(start[0]) :], pipe.encode_pixels(clip), atol=2e-5)
    shown = np.where(sampled.strength > 0, trained.source, 0)
    np.testing.assert_allclose(shown, sampled.source, atol=2e-5)


def test_what_is_known_is_drawn_as_a_model_takes_it():
    recipe, key = DiTLossConfig(nothing=0.3, first_frame=0.2), jax.random.key(0)
    bucket = dataclasses.replace(SMALL, frames=9)
    draws = {}
    for kind in ("channels", "first_last", "control"):
        model = test_abilities.pipe(kind).config
        drawn = np.asarray(given.kept(key, model, recipe, bucket, 256))[..., 0, 0, 0]
        draws[kind] = {tuple(np.flatnonzero(row).tolist()) for row in drawn}
    assert draws["channels"] == {tuple(range(n)) for n in range(1, 9)}
    assert draws["first_last"] == {(0, 8)}
    assert draws["control"] > {(), (0,), (8,), (0, 8), (0, 1, 2), (6, 7, 8)}
    assert tuple(range(9)) not in draws["control"]
    timed, clips = test_abilities.pipe("per_frame").config, jnp.zeros((256, 9, 1, 1, 3))
    *_, drawn = given.in_place(key, timed, recipe, bucket, lambda video: video[:, ::4], clips)
    drawn = {tuple(np.flatnonzero(row).tolist()) for row in np.asarray(drawn)}
    assert drawn == {(), (0,), (2,), (0, 1), (1, 2), (0, 2)}
    boxes = given.kept(key, model, recipe, dataclasses.replace(bucket, boxes=True), 64)
    inside = np.asarray(boxes).min(axis=1).reshape(64, -1).mean(axis=1)
    assert ((inside > 0) & (inside < 1)).mean() > 0.5


def test_times_are_those_of_the_expert(tmp_path):
    key, boundary = jax.random.key(0), 0.875
    model = ModelConfig("two", boundary=boundary)
    draws = {}
    for expert in ("dit", "low"):
        within = tuning.sides(model, expert)
        draws[expert] = np.asarray(tuning.times(key, (10_000,), 12.0, within, uniform=0.1))
    assert draws["dit"].min() >= np.float32(boundary) > draws["low"].max()
    # As all times, of which each has those on its side.
    both = np.asarray(tuning.times(key, (40_000,), 12.0, (0.0, 1.0)))
    assert np.median(both) == pytest.approx(12 / 13, abs=0.003)
    for expert, side in (("dit", both >= boundary), ("low", both < boundary)):
        alone = tuning.times(key, (10_000,), 12.0, tuning.sides(model, expert))
        assert np.median(alone) == pytest.approx(np.median(both[side]), abs=0.005)


def test_what_cannot_be_tuned_is_said(tmp_path):
    name = tiny_wan.write(tmp_path / "t2v", "t2v")
    run = config(tmp_path, name)
    for changes, said in (
        ({"init": None}, "says which"),
        ({"expert": "low"}, "one expert"),
        ({"optimizer": OptimizerConfig(name="muon")}, "to adamw"),
        ({"dit_loss": DiTLossConfig(known_noise=0.1)}, "without noise"),
        ({"frozen": ("text",)}, "leave out vae"),
        ({"lora": LoraConfig(targets=("to_q", "to_x"))}, "names to_x"),
    ):
        with pytest.raises(ConfigError, match=said):
            starting_point(dataclasses.replace(run, **changes))
    with pytest.raises(ConfigError, match="rank must be"):
        validation.override(run, ["--lora.rank=0"])


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("t2v", {"anchors": 1, "boxes": True}, '"renoise" takes no anchors, boxes'),
        ("flf2v", {"frames": 1}, "add frames"),
        ("vace", {"lead": 1}, "takes no lead"),
    ],
)
def test_clips_that_a_family_cannot_learn_from_are_said(
    monkeypatch, tmp_path, family, changes, said
):
    run = config(tmp_path, tiny_wan.write(tmp_path / family, family))
    bucket = dataclasses.replace(SMALL, **changes)
    run = dataclasses.replace(run, stages=(Stage((Group((bucket,)),), 1),))
    monkeypatch.setattr(weights, "open", None)  # no weights are read before it is said
    with pytest.raises(ConfigError, match=said):
        starting_point(run)


def test_a_directory_that_is_half_there_is_said(tmp_path, capsys):
    name = pathlib.Path(tiny_wan.write(tmp_path / "t2v", "t2v"))
    (name / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    path = pathlib.Path(__file__).parent.parent / "configs" / "wan_lora.py"
    assert trainer.main([str(path), f"--init={name}", f"--run_dir={tmp_path / 'runs'}"]) == 1
    said = capsys.readouterr().err.strip()
    assert "vae" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
