"""Tuning: a published model goes on learning, and what is saved is what others read."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
import tiny_wan
from safetensors.numpy import load_file

from vjax import loras, weights
from vjax import train as trainer
from vjax.config import Bucket, ConfigError, Group, LoraConfig, ModelConfig, RunConfig, Stage
from vjax.data import loader
from vjax.training import lora, tuning
from vjax.training.plan import Plan
from vjax.training.start import starting_point
from vjax.training.state import init_state, train_step

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


def one_step(run: RunConfig):
    """The state before and after an update, and what it was made with."""
    begin = starting_point(run)
    task, plan = begin.task, Plan(run.stages)
    batches = loader.batches(task.config, plan, tokenizer=begin.tokenizer, start=0, stop=1)
    parts = next(batches).parts
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
    trained = begin.task.expert({**begin.frozen, **after["params"]})
    for (path, x), y in zip(jax.tree.leaves_with_path(read), jax.tree.leaves(trained), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6, err_msg=str(path))
    base = weights.load(name, ("dit",)).params["dit"]["blocks"]["self_attention"]["q"]["kernel"]
    assert np.abs(read["blocks"]["self_attention"]["q"]["kernel"] - base).max() > 1e-4


def test_a_run_writes_its_lora_and_goes_on(tmp_path):
    name = tiny_wan.write(tmp_path / "t2v", "t2v")
    run = config(tmp_path / "runs", name)
    made = trainer.train(dataclasses.replace(run, steps=1))
    file = made / "pytorch_lora_weights.safetensors"
    first = load_file(file)
    assert made == tmp_path / "runs" / "run" / "lora"
    assert trainer.train(run) == made
    assert any((x != first[key]).any() for key, x in load_file(file).items())


@pytest.mark.parametrize("family", ["ti2v", "a14b", "skyreels"])
def test_each_family_learns(tmp_path, family):
    name = tiny_wan.write(tmp_path / family, family)
    side = 64 if family == "ti2v" else 32
    bucket = dataclasses.replace(SMALL, height=side, width=side)
    _, _, _, metrics = one_step(config(tmp_path / "runs", name, bucket))
    assert np.isfinite(metrics["loss"])
    assert metrics["gradient_norm"] > 0


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
        ({"frozen": ("text",)}, "leave out vae"),
        ({"lora": LoraConfig(targets=("to_q", "to_x"))}, "names to_x"),
    ):
        with pytest.raises(ConfigError, match=said):
            starting_point(dataclasses.replace(run, **changes))
