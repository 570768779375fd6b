"""Training: what the losses see, runs that stop and go on, many devices."""

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import logging
import os
import pathlib
import re
import signal
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from einops import rearrange, reduce
from jax.sharding import NamedSharding, PartitionSpec

import vjax
from vjax import conditioning, models, validation, weights
from vjax import config as configs
from vjax import train as trainer
from vjax import video as media
from vjax.benchmarks.updates import speed_of_update
from vjax.canvas import filled
from vjax.config import (
    Bucket,
    ConfigError,
    DataConfig,
    DiTLossConfig,
    Group,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    Stage,
)
from vjax.data import loader
from vjax.data.loader import Stream
from vjax.models import flops
from vjax.models.vae import to_float
from vjax.parallel import mesh as meshes
from vjax.training import dit, meter, preview, start, vae
from vjax.training.checkpoint import Checkpoints
from vjax.training.plan import Plan
from vjax.training.process import Stopped, alone_in
from vjax.training.state import init_state, restart, train_step

FIVE = Bucket(frames=5, height=32, width=32, batch=8)


def stage(*buckets: Bucket, steps: int = 4, **changes) -> Stage:
    """A stage of one group."""
    return Stage((Group(buckets),), steps, **{"learning_rate": 1e-2, "warmup": 1, **changes})


# What is compiled backwards is smaller still: two frames a latent, in one step down.
MODEL = tiny.model(
    frames=5,
    dit=dataclasses.replace(tiny.MODEL.dit, depth=1),
    vae=dataclasses.replace(
        tiny.MODEL.vae, patch_size=4, dim_mult=(1, 1), temporal_downsample=(True,)
    ),
)
PARAMS = tiny.params(MODEL)


def dit_config(directory, **changes) -> RunConfig:
    config = RunConfig(
        name="run",
        trains="dit",
        model=MODEL,
        stages=(stage(FIVE),),
        run_dir=str(directory),
        checkpoint_every=2,
        sample_every=100,
        log_every=1,
    )
    return dataclasses.replace(config, **changes)


def vae_config(directory, **changes) -> RunConfig:
    vae = dataclasses.replace(MODEL.vae, latents_mean=(), latents_std=())
    model = dataclasses.replace(MODEL, vae=vae, dit=None, text=None)
    return dit_config(directory, trains="vae", model=model, **changes)


def one_batch(config: RunConfig, bucket: Bucket) -> dict:
    plan = Plan((stage(bucket),))
    batch = next(loader.batches(config, plan, tokenizer=tiny.tokenizer(), start=0, stop=1))
    return batch.parts[0][1]


# --- What the DiT's loss sees --------------------------------------------------------------------


class Watched:
    """Networks that compute next to nothing and remember what the transformer was given."""

    def __init__(self):
        self.seen = None

    def bind(self, config, params):
        if isinstance(config, configs.DiTConfig):
            return self.transformer
        if isinstance(config, configs.TextConfig):
            return lambda ids, mask, dtype: jnp.repeat(ids[..., None].astype(dtype), 16, axis=2)
        return types.SimpleNamespace(encode=encode, normalise=lambda z: z, config=config)

    def transformer(
        self, point, t, text, *, positions, anchors, anchor_positions, unroll, text_bias=None
    ):
        self.seen = types.SimpleNamespace(
            point=point,
            t=t,
            text=text,
            positions=positions,
            anchors=anchors,
            anchor_positions=anchor_positions,
            text_bias=text_bias,
        )
        return jnp.zeros_like(point)


def encode(video):
    """Causal as the VAE: means over 8x8 pixels, of the first frame and of every four after it.

    Each position sees a little of all the others.
    """
    small = reduce(jnp.asarray(video), "b t (h p) (w q) c -> b t h w c", "mean", p=8, q=8)
    small += small.mean(axis=(2, 3), keepdims=True)
    rest = reduce(small[:, 1:], "b (t r) h w c -> b t h w c", "mean", r=4)
    z = jnp.concatenate([small[:, :1], rest], axis=1)
    return z, jnp.zeros_like(z)


def watch(monkeypatch, bucket: Bucket, loss: DiTLossConfig | None = None, dtype="float32"):
    """The loss, the clips in [-1, 1] and what the transformer saw of them."""
    watched = Watched()
    monkeypatch.setattr(models, "bind", watched.bind)
    model = tiny.model(dit=dataclasses.replace(tiny.MODEL.dit, patch=(1, 2, 2)))
    loss = loss or DiTLossConfig()
    config = dataclasses.replace(dit_config("runs"), model=model, dit_loss=loss, dtype=dtype)
    frames = bucket.frames + 4 * bucket.lead
    shape = (bucket.batch, frames, bucket.height, bucket.width, 3)
    video = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    ids = np.repeat(np.arange(bucket.batch, dtype=np.int32)[:, None], 32, axis=1)

    @jax.jit
    def run(batch):
        params = {"dit": {}, "text": {}, "vae": {}}
        value, _ = dit.DiTTask(config).loss(bucket, params, batch, jax.random.key(0))
        return value, vars(watched.seen)

    value, seen = run({"video": video, "ids": ids, "mask": ids == 0})
    seen = types.SimpleNamespace(**jax.device_get(seen))
    return float(value), jnp.asarray(video, jnp.float32) / 127.5 - 1, seen


def per_position(t, shape) -> np.ndarray:
    t = np.asarray(t)
    return np.broadcast_to(t.reshape(*t.shape, *(1,) * (4 - t.ndim)), shape[:4])


BUCKETS = {
    "plain": Bucket(frames=17, height=32, width=32, batch=32),
    "one frame": Bucket(frames=1, height=32, width=32, batch=32),
    "anchors": Bucket(frames=17, height=32, width=32, batch=32, anchors=3),
    "lead": Bucket(frames=13, height=32, width=32, batch=32, lead=2),
    "boxes": Bucket(frames=9, height=32, width=48, batch=64, boxes=True),
    "references": Bucket(frames=5, height=32, width=48, batch=32, references=2),
    "one cell": Bucket(frames=5, height=16, width=16, batch=32, boxes=True),
}


@pytest.mark.parametrize("name", BUCKETS)
def test_the_loss_is_that_of_unknown_tokens_and_known_ones_are_clean(name, monkeypatch):
    bucket = BUCKETS[name]
    value, video, seen = watch(monkeypatch, bucket)
    latents = np.asarray(encode(video)[0])[:, bucket.lead :]
    assert (np.asarray(seen.positions) == bucket.lead + np.arange(latents.shape[1])).all()
    tau = per_position(seen.t, latents.shape)
    known = tau == 0
    assert (~known).reshape(len(known), -1).any(axis=1).all()  # something is left to learn from
    # All unknown tokens of a clip are at one time.
    highest = tau.max(axis=(1, 2, 3), keepdims=True)
    assert (tau[~known] == np.broadcast_to(highest, tau.shape)[~known]).all()
    # On unknown tokens the noise follows from the point; the network here predicts zero.
    time = np.where(known, 1, tau)[..., None]
    noise = (np.asarray(seen.point) - (1 - time) * latents) / time
    error = ((noise - latents) ** 2).mean(axis=-1) * ~known
    expected = (error.sum(axis=(1, 2, 3)) / (~known).sum(axis=(1, 2, 3))).mean()
    # Noise at a time of almost zero is found inexactly; a wrong mask would be off by far more.
    assert value == pytest.approx(expected, rel=1e-2)
    if bucket.boxes:
        assert seen.t.shape == latents.shape[:4]
        return
    frames = known[:, :, 0, 0]
    assert (known == frames[:, :, None, None]).all()
    assert (np.diff(frames.astype(int), axis=1) <= 0).all()  # a prefix
    if bucket.frames > 1:
        # A window within a longer clip always goes on from something.
        assert set(frames.sum(1)) == set(range(1 if bucket.lead else 0, latents.shape[1]))
    np.testing.assert_allclose(np.asarray(seen.point)[known], latents[known], atol=1e-6)


def test_boxes_lie_on_the_patch_grid_and_show_nothing_of_the_rest(monkeypatch):
    loss = DiTLossConfig(nothing=1.0, first_frame=0.0)
    _, video, seen = watch(monkeypatch, BUCKETS["boxes"], loss)
    known = np.asarray(seen.t) == 0
    cells = rearrange(known, "b t (h p) (w q) -> b t h w (p q)", p=2, q=2)
    assert (cells.all(-1) == cells.any(-1)).all()
    assert (known == known[:, :1]).all()  # the same in every frame
    cells = cells[:, 0, ..., 0]
    assert cells.any(axis=(1, 2)).mean() > 0.7
    assert not cells.all(axis=(1, 2)).any()
    assert {tuple(c) for c in np.argwhere(cells.any(0))} == set(np.ndindex(2, 3))
    inside = np.repeat(np.repeat(known, 8, axis=2), 8, axis=3)[:, :1, ..., None]
    masked = np.asarray(encode(filled(jnp.where(inside, video, 9.0), jnp.float32(inside)))[0])
    np.testing.assert_allclose(np.asarray(seen.point)[known], masked[known], atol=1e-6)


def test_spans_are_two_clips_of_which_each_half_hears_its_own_text(monkeypatch):
    bucket = Bucket(frames=17, height=32, width=32, batch=32, spans=True)
    loss = DiTLossConfig(nothing=0.0, first_frame=0.0)
    _, video, seen = watch(monkeypatch, bucket, loss)
    # Five latents: the first three are frames 0 to 8.
    whole = np.concatenate([video[:, :9], np.roll(video, 1, axis=0)[:, 9:]], axis=1)
    known = np.asarray(seen.t) == 0
    latents = np.asarray(encode(whole)[0])
    assert known[:, 3].any()
    np.testing.assert_allclose(np.asarray(seen.point)[known], latents[known], atol=1e-5)
    text, bias = np.asarray(seen.text), np.asarray(seen.text_bias)
    length = text.shape[1] // 2
    np.testing.assert_array_equal(text[1:, length:], text[:-1, :length])
    heard = np.array([[1, 0]] * 3 + [[0, 1]] * 2)
    np.testing.assert_array_equal(
        np.exp(bias), np.broadcast_to(heard.repeat(length, 1), bias.shape)
    )


def test_anchors_are_frames_or_the_end_of_the_clip_at_their_own_times(monkeypatch):
    _, video, seen = watch(monkeypatch, BUCKETS["anchors"])
    anchors, positions = np.asarray(seen.anchors), np.asarray(seen.anchor_positions)
    end = np.asarray(encode(video[:, 8:])[0])
    ends = 0
    for clip in range(len(video)):
        if np.allclose(anchors[clip], end[clip], atol=1e-5):
            np.testing.assert_array_equal(positions[clip], [2, 3, 4])
            ends += 1
            continue
        for anchor, position in zip(anchors[clip], positions[clip], strict=True):
            frame = video[clip : clip + 1, int(4 * position) : int(4 * position) + 1]
            np.testing.assert_allclose(anchor, np.asarray(encode(frame)[0])[0, 0], atol=1e-5)
    assert 8 < ends < 30


def test_references_are_frames_of_the_clip_in_another_place_and_lie_where_sampling_has_them(
    monkeypatch,
):
    bucket = BUCKETS["references"]
    value, video, seen = watch(monkeypatch, bucket)
    frames, places = np.asarray(video)[0], list(np.ndindex(32, 48))
    moved = np.stack([np.roll(frames, place, axis=(1, 2)) for place in places])
    candidates = np.asarray(encode(rearrange(moved, "p t h w c -> (p t) 1 h w c"))[0])
    for look in np.asarray(seen.anchors)[0]:
        off = np.abs(candidates[:, 0] - look).max(axis=(1, 2, 3))
        assert off.min() < 1e-5
        assert off.argmin() >= len(frames)  # the first are where they were
    positions = conditioning.reference_positions(2)
    assert (np.asarray(seen.anchor_positions) == positions).all()
    later = dataclasses.replace(bucket, frames=13, lead=2)
    seen = watch(monkeypatch, later)[2]
    assert (np.asarray(seen.anchor_positions) == 2 + positions).all()
    # What else a batch is does not change with them.
    plain, _, without = watch(monkeypatch, dataclasses.replace(bucket, references=0))
    assert plain == value
    assert without.anchors.shape[1] == 0


def test_noise_levels_and_mixture_stay_float32_where_networks_compute_in_bfloat16(monkeypatch):
    bucket = dataclasses.replace(BUCKETS["plain"], time_mean=6.0)  # all but noise
    loss = DiTLossConfig(nothing=1.0, time_uniform=0.0)
    (value, _, seen), (rough, _, half) = (
        watch(monkeypatch, bucket, loss, dtype) for dtype in ("float32", "bfloat16")
    )
    assert half.point.dtype == half.text.dtype == jnp.bfloat16
    assert half.t.dtype == np.float32
    np.testing.assert_array_equal(half.t, seen.t)
    assert 0.95 < half.t.min() < half.t.max() < 1  # bfloat16 would make it 1
    # The network here predicts zero, so the loss is the target's mean square.
    assert rough == pytest.approx(value, rel=1e-3)


# --- What the VAE's loss sees --------------------------------------------------------------------


def test_the_loss_of_a_vae_is_float32_where_its_network_computes_in_bfloat16(monkeypatch):
    moments, seen = [], []

    def encode(video):
        small = reduce(video, "b t (h p) (w q) c -> b t h w c", "mean", p=8, q=8)
        moments.extend((small, small - 1))
        return moments

    def decode(z):
        seen.append(z)
        b, t, h, w, _ = z.shape
        return jnp.full((b, t, 8 * h, 8 * w, 3), 0.5, z.dtype)

    network = types.SimpleNamespace(encode=encode, decode=decode)
    monkeypatch.setattr(models, "bind", lambda config, params: network)
    task, key = vae.VAETask(vae_config("runs", dtype="bfloat16")), jax.random.key(0)
    video = np.full((2, 5, 32, 32, 3), 191, np.uint8)
    loss, metrics = task.loss(FIVE, {"vae": {}}, {"video": video}, key)
    assert {x.dtype for x in (*moments, *seen)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in (loss, *metrics.values())} == {jnp.dtype("float32")}
    # Computed in bfloat16 this gray is 0.5, and the error zero.
    error = 191 / 127.5 - 1 - 0.5
    assert metrics["psnr"] == pytest.approx(10 * np.log10(4 / error**2), rel=1e-4)
    mean, logvar = (np.asarray(x, np.float32) for x in moments)
    kl = 0.5 * np.mean(mean**2 + np.exp(logvar) - 1 - logvar)
    assert metrics["kl"] == pytest.approx(kl, rel=1e-5)
    z = mean + np.exp(0.5 * logvar) * jax.random.normal(key, mean.shape)
    np.testing.assert_array_equal(seen[0], z.astype(jnp.bfloat16))


def test_previews_of_other_statistics_share_a_program(monkeypatch, tmp_path):
    config = vae_config(tmp_path)
    clips = np.stack([tiny.clip(5, seed=s) for s in (0, 1)])
    monkeypatch.setattr(vae, "held_out_clips", lambda config, count=None: clips)
    compiled = vae._reconstruct._cache_size()
    figures = []
    for mean in (0.1, 0.2):
        statistics = {"latents_mean": (mean,) * 4, "latents_std": (1.0,) * 4}
        measured = dataclasses.replace(config.model.vae, **statistics)
        model = dataclasses.replace(config.model, vae=measured)
        shown, found = vae.VAETask(config).preview(
            weights.Bundle(model, {"vae": PARAMS["vae"]}, None)
        )
        figures.append(found)
        assert shown.shape == (5, 64, 64, 3)
        np.testing.assert_array_equal(shown[:, :32], np.concatenate(list(clips), axis=2))
    assert figures[0] == figures[1]
    assert vae._reconstruct._cache_size() <= compiled + 1


# --- Steps ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    weights.save(directory, tiny.bundle(MODEL), dtype="float32")
    return str(directory)


@pytest.fixture(scope="module")
def config(bundle, tmp_path_factory) -> RunConfig:
    """A DiT's run on clips with all that can be known of them, and on pictures."""
    full = dataclasses.replace(FIVE, anchors=2, boxes=True)
    pictures = dataclasses.replace(FIVE, frames=1)
    groups = (Group((full,), share=0.7), Group((pictures, FIVE), share=0.3))
    first = Stage(groups, steps=15, learning_rate=1e-2, warmup=1)
    second = dataclasses.replace(first, restart=True, decay_from=0.5)
    return dit_config(
        tmp_path_factory.mktemp("runs"),
        stages=(first, second),
        dit_loss=DiTLossConfig(nothing=0.4),
        vae=bundle,
        init=bundle,
        checkpoint_every=20,
        sample_prompts=("a red circle",),
    )


def test_a_step_on_eight_devices_equals_one_on_one_and_the_loss_falls(config):
    assert jax.device_count() == 8
    task = dit.DiTTask(config)
    parts = [(b, one_batch(config, b)) for group in config.stages[0].groups for b in group.buckets]
    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = meshes.make_mesh(MeshConfig(), devices)
        everywhere = NamedSharding(mesh, PartitionSpec())
        given = {name: PARAMS[name] for name in ("dit", "text")}
        state = jax.device_put(init_state(task, given), everywhere)
        frozen = jax.device_put({"vae": PARAMS["vae"]}, everywhere)
        with jax.sharding.set_mesh(mesh):
            placed = [(bucket, meshes.place_batch(mesh, arrays)) for bucket, arrays in parts]
            state, metrics = train_step(task, state, frozen, placed, 1e-2, 0.1)
        for leaf in jax.tree.leaves(state):
            assert leaf.sharding.is_fully_replicated
        results.append(jax.device_get((state, metrics)))
    (one, one_metrics), (eight, eight_metrics) = results
    for name in ("loss", "gradient_norm"):
        assert eight_metrics[name] == pytest.approx(one_metrics[name], rel=1e-5)
    # Adam divides a gradient by its own size, so small ones are compared by its moments alone.
    for part, tolerance in (("optimizer", 1e-5), ("params", 2e-4), ("ema", 2e-4)):
        ours, others = jax.tree.leaves(one[part]), jax.tree.leaves(eight[part])
        for mine, other in zip(ours, others, strict=True):
            np.testing.assert_allclose(other, mine, rtol=1e-4, atol=tolerance)

    # The step decides what is drawn: with the same draws the loss falls steadily.
    found = []
    with jax.sharding.set_mesh(mesh):
        for _ in range(15):
            state["step"] = jax.device_put(jnp.int32(0), everywhere)
            state, metrics = train_step(task, state, frozen, placed, 1e-2, 0.1)
            found.append(float(metrics["loss"]))
    assert found[-1] < 0.8 * found[0]


class Mean(vae.VAETask):
    """A loss without randomness: how far a brightness is from the mean of each clip."""

    def loss(self, bucket, params, batch, key):
        means = to_float(batch["video"]).mean(axis=(1, 2, 3, 4))
        return jnp.mean((params["vae"]["kernel"] - means) ** 2), {}


def test_an_update_of_several_buckets_is_the_mean_over_clips_times_root_of_frames():
    task = Mean(vae_config("runs", optimizer=OptimizerConfig(clip_norm=1e9)))
    params = {"vae": {"kernel": jnp.float32(0.3)}}
    rng = np.random.default_rng(0)
    pictures = dataclasses.replace(FIVE, frames=1, batch=24)
    batches = [
        (bucket, {"video": rng.integers(0, 256, (bucket.batch, bucket.frames, 4, 4, 3), np.uint8)})
        for bucket in (FIVE, pictures, pictures)
    ]

    def update(parts):
        state, metrics = train_step(task, init_state(task, params), {}, parts, 1e-2, 0.1)
        return jax.device_get(state), jax.device_get(metrics)

    def slope(batch) -> float:
        return float(np.mean(2 * (0.3 - (batch["video"] / 127.5 - 1).mean(axis=(1, 2, 3, 4)))))

    _, metrics = update(batches)
    shares = np.array([8 * 5**0.5, 24, 24])
    slopes = np.array([slope(batch) for _, batch in batches])
    assert metrics["gradient_norm"] == pytest.approx(abs(slopes @ shares) / shares.sum(), rel=1e-4)

    # With equal shapes it is gradient accumulation: the same as one larger batch.
    parts = batches[1:]
    larger = dataclasses.replace(pictures, batch=48)
    whole = {"video": np.concatenate([batch["video"] for _, batch in parts])}
    (one, one_metrics), (other, other_metrics) = update(parts), update([(larger, whole)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, other)
    assert one_metrics["loss"] == pytest.approx(other_metrics["loss"], rel=1e-5)


def test_a_fresh_start_goes_on_from_the_average_and_forgets_the_moments():
    task = Mean(vae_config("runs"))
    state = init_state(task, {"vae": {"kernel": jnp.float32(0.3)}})
    batch = {"video": np.zeros((8, 5, 4, 4, 3), np.uint8)}
    for _ in range(3):
        state, _ = train_step(task, state, {}, [(FIVE, batch)], 1e-2, 0.5)
    before = jax.device_get(state)
    state = jax.device_get(restart(task, state))
    assert state["step"] == 3
    assert state["params"] == state["ema"] == before["ema"] != before["params"]
    fresh = init_state(task, {"vae": {"kernel": jnp.float32(0.3)}})["optimizer"]
    jax.tree.map(np.testing.assert_array_equal, state["optimizer"], jax.device_get(fresh))


# --- Runs ----------------------------------------------------------------------------------------


def final_state(config: RunConfig, step: int) -> dict:
    begin = start.starting_point(config)
    config, state = begin.task.config, init_state(begin.task, begin.given)
    checkpoints = Checkpoints(pathlib.Path(config.run_dir) / config.name / "checkpoints", config)
    assert checkpoints.last() == step
    restored = checkpoints.read(checkpoints.newest(), state)
    checkpoints.close()
    return jax.device_get(restored)


def test_a_run_that_stops_and_goes_on_equals_one_that_does_not(config, monkeypatch):
    runs = pathlib.Path(config.run_dir)
    made = trainer.train(config)
    # What a finished run leaves.
    assert made == runs / "run" / "bundle"
    pipe = vjax.load(made)
    source = weights.fingerprint(config.init)
    said = f"run: 30 updates, seed 0, started from {source}, VAE {source}"
    assert pipe.config.origin == said
    assert pipe.config.vae == MODEL.vae
    clip = media.read(runs / "run" / "samples" / "0000030.mp4")
    assert clip.frames.shape == (5, 32, 32, 3)
    assert list((runs / "run" / "tensorboard").glob("events*"))
    whole = final_state(config, 30)
    (runs / "run").rename(runs / "whole")

    seen = []

    def stopping(*arguments):
        seen.append(tuple(bucket for bucket, _ in arguments[3]))
        if len(seen) == 15:  # between two stages
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(*arguments)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(trainer, "train_step", stopping)
    with pytest.raises(Stopped, match="Stopped at step 15") as stopped:
        trainer.train(config)
    assert stopped.value.status == 0
    assert len(seen) == 15
    assert final_state(config, 15)["step"] == 15
    assert not (runs / "run" / "samples").exists()
    trainer.train(config)
    plan = Plan(config.stages)
    assert seen == [plan[step].group.buckets for step in range(30)]
    assert set(seen) == {group.buckets for group in config.stages[0].groups}  # both were there
    assert signal.getsignal(signal.SIGTERM) == handler
    resumed = final_state(config, 30)
    assert set(whole) == {"step", "params", "ema", "optimizer"}
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    first = PARAMS["dit"]["head"]["kernel"]
    assert not np.allclose(whole["params"]["dit"]["head"]["kernel"], first)


def test_a_vae_run_learns_and_leaves_a_bundle_with_the_statistics_of_its_latents(
    bundle, tmp_path, monkeypatch
):
    monkeypatch.setattr(vae, "CLIPS", 6)
    one_device = functools.partial(meshes.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(meshes, "make_mesh", one_device)
    found = []

    def watched(*arguments):
        state, metrics = train_step(*arguments)
        found.append(float(metrics["loss"]))
        return state, metrics

    monkeypatch.setattr(trainer, "train_step", watched)
    config = vae_config(
        tmp_path, stages=(stage(FIVE, steps=30),), init=bundle, checkpoint_every=100
    )
    made = trainer.train(config)
    assert np.mean(found[-5:]) < 0.8 * np.mean(found[:5])
    loaded = weights.load(str(made))
    model, params = loaded.config, loaded.params
    assert (model.dit, model.text) == (None, None)
    plain = dataclasses.replace(model.vae, latents_mean=(), latents_std=())
    mean = jax.jit(lambda params, video: models.bind(plain, params).encode(video)[0])
    video = to_float(vae.held_out_clips(config))
    means = np.mean(mean(jax.tree.map(jnp.asarray, params["vae"]), video), axis=(0, 1, 2, 3))
    # The bundle's weights are rounded to bfloat16.
    np.testing.assert_allclose(means, model.vae.latents_mean, atol=0.05)
    assert (np.array(model.vae.latents_std) > 0).all()
    clip = media.read(tmp_path / "run" / "samples" / "0000030.mp4")
    assert clip.frames.shape == (5, 64, 32 * 6, 3)  # clips above, reconstructions below


def test_a_frozen_network_stays_as_it_starts(tmp_path, bundle):
    config = dit_config(tmp_path, vae=bundle, init=bundle)
    frozen = dataclasses.replace(config, frozen=("text",))
    begin = start.starting_point(frozen)
    jax.tree.map(np.testing.assert_array_equal, begin.frozen["text"], PARAMS["text"])
    state = init_state(begin.task, begin.given)
    whole = start.starting_point(config).task
    text = FIVE.batch * 2 * flops.text_flops(MODEL.text, MODEL.text.max_length)
    assert whole.flops(FIVE) - begin.task.flops(FIVE) == text  # it has no backward pass
    # It has no average, no moments and no decay.
    for part in ("params", "ema"):
        assert set(state[part]) == {"dit"}
    moments = {
        jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state["optimizer"])
    }
    assert any("['dit']" in path for path in moments)
    assert not any("['text']" in path for path in moments)
    before = jax.device_get(state["params"])
    parts = [(FIVE, one_batch(frozen, FIVE))]
    state, _ = train_step(begin.task, state, begin.frozen, parts, 1e-2, 0.1)
    assert any(
        np.any(a != b)
        for a, b in zip(*map(jax.tree.leaves, (state["params"], before)), strict=True)
    )
    for changes, message in (
        ({"init": None}, "comes from the bundle of --init"),
        ({"frozen": ("dit", "text")}, "all the networks"),
    ):
        with pytest.raises(ConfigError, match=message):
            start.starting_point(dataclasses.replace(frozen, **changes))


def test_a_cropped_clip_counts_as_what_is_left_of_it(tmp_path):
    wide = dataclasses.replace(FIVE, height=64, width=96, crop=32)
    for task in (dit.DiTTask(dit_config(tmp_path)), vae.VAETask(vae_config(tmp_path))):
        assert task.flops(wide) == task.flops(FIVE)
        figures = [speed_of_update(task, Group((bucket,)), 1.0) for bucket in (wide, FIVE)]
        assert figures[0] == figures[1]


def small_state(config=None, given=None) -> dict:
    return {
        "step": jnp.zeros((), jnp.int32),
        "params": {"kernel": jnp.arange(12.0).reshape(3, 4)},
        "ema": {"kernel": jnp.zeros((3, 4))},
    }


def fake_step(losses_by_step: list[float], gradient: float = 1.0):
    def step(task, state, frozen, parts, rate, ema, programs):
        loss = losses_by_step[int(state["step"])]
        metrics = {"loss": np.float32(loss), "gradient_norm": np.float32(gradient)}
        if not np.isfinite(loss):
            metrics["gradient_norm"] = np.float32(1)
        return {**state, "step": state["step"] + 1}, metrics

    return step


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_that_is_no_number_stops_the_run(what, tmp_path, monkeypatch, capsys):
    config = vae_config(tmp_path, stages=(stage(FIVE, steps=6),))
    monkeypatch.setattr(trainer, "init_state", small_state)
    monkeypatch.setattr(trainer, "compile_ahead", lambda *_: {})
    steps = fake_step([1, 1, 1, np.nan, 1, 1]) if what == "loss" else fake_step([1] * 6, np.inf)
    monkeypatch.setattr(trainer, "train_step", steps)
    message = "last good checkpoint is step 2" if what == "loss" else "no checkpoint yet"
    with pytest.raises(trainer.NotFinite, match=message):
        trainer.train(config)
    saved = [path.name for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*")]
    assert saved == (["2"] if what == "loss" else [])


# --- Endings -------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Runs whose updates, bundles and previews take no time; returns what they did."""
    done = []
    monkeypatch.setattr(trainer, "init_state", small_state)
    monkeypatch.setattr(trainer, "compile_ahead", lambda *_: {})
    monkeypatch.setattr(trainer, "train_step", fake_step([1] * 100))
    monkeypatch.setattr(trainer, "_export", lambda *_: done.append("bundle"))
    monkeypatch.setattr(preview, "make", lambda *_: (None, {}))
    monkeypatch.setattr(preview, "write", lambda *arguments: done.append(f"show {arguments[2]}"))
    return done


def saved_steps(directory: pathlib.Path) -> list[int]:
    return sorted(int(p.name) for p in (directory / "run/checkpoints").iterdir())


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_during_a_preview_loses_nothing_and_is_the_exit_status(
    number, status, quick, tmp_path, monkeypatch, capsys
):
    def long(*_):
        os.kill(os.getpid(), number)
        threading.Event().wait()

    monkeypatch.setattr(preview, "make", long)
    config = vae_config(tmp_path, stages=(stage(FIVE, steps=9),), sample_every=3)
    file = write_config(tmp_path, dataclasses.replace(config, checkpoint_every=100))
    assert trainer.main([file]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("compiling 8 x 5x32x32") == 1
    assert "Stopped at step 3; the same command goes on from there." in captured.err
    assert saved_steps(tmp_path) == [3]
    assert quick == ["bundle"]  # devices that are still at the preview are asked for no other


@pytest.mark.parametrize(
    ("changes", "said", "status", "saved", "written"),
    [
        ({}, "; the same command goes on from there.", 0, [1], []),
        ({"minutes": 9.0}, "; its bundle is what was reached", 143, [1], ["bundle"]),
        ({"checkpoint_every": 0}, "; nothing but its bundle was saved", 143, [], ["bundle"]),
    ],
)
def test_a_signal_during_an_update_is_heard_after_it(
    changes, said, status, saved, written, quick, tmp_path, monkeypatch, capsys
):
    step = trainer.train_step

    def compiling(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(trainer, "train_step", compiling)
    config = vae_config(tmp_path, **changes)
    assert trainer.main([write_config(tmp_path, config)]) == status
    assert f"Stopped at step 1{said}" in capsys.readouterr().err
    assert saved_steps(tmp_path) == saved
    assert quick == written


def test_a_signal_while_a_program_compiles_stops_the_run_there(
    quick, tmp_path, monkeypatch, capsys
):
    class Compiling(concurrent.futures.Future):
        def __init__(self):
            super().__init__()
            os.kill(os.getpid(), signal.SIGTERM)

    other = dataclasses.replace(FIVE, frames=1)
    monkeypatch.setattr(
        trainer, "compile_ahead", lambda *a: {other: Compiling()} if other in a[3] else {}
    )
    stages = (stage(FIVE, steps=3), stage(other, steps=3))
    assert trainer.main([write_config(tmp_path, vae_config(tmp_path, stages=stages))]) == 0
    assert "Stopped at step 3; the same command goes on" in capsys.readouterr().err
    assert saved_steps(tmp_path) == [2, 3]


def test_a_signal_before_the_first_update_ends_the_run_with_nothing_lost(
    quick, tmp_path, monkeypatch, capsys
):
    def reading(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()

    monkeypatch.setattr(trainer, "init_state", reading)
    assert trainer.main([write_config(tmp_path, vae_config(tmp_path))]) == 0
    assert "Stopped before the first update." in capsys.readouterr().err


def test_a_preview_that_fails_is_logged_and_the_run_goes_on(quick, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preview, "write", full)
    with caplog.at_level(logging.WARNING, "vjax"):
        trainer.train(vae_config(tmp_path, sample_every=2))
    assert "The preview of step 2 failed: OSError: [Errno 28] No space left" in caplog.text
    assert saved_steps(tmp_path) == [2, 4]
    monkeypatch.setattr(trainer, "_export", full)  # without its bundle, the run has failed
    with pytest.raises(OSError, match="No space left"):
        trainer.train(vae_config(tmp_path, name="other"))


def test_zero_means_never(quick, tmp_path, caplog):
    changes = {"sample_every": 0, "checkpoint_every": 0, "log_every": 0}
    with caplog.at_level(logging.INFO, "vjax"):
        trainer.train(vae_config(tmp_path, **changes))
    assert quick == ["bundle"]
    assert saved_steps(tmp_path) == []
    assert "step 4 " not in caplog.text
    file = write_config(tmp_path, vae_config(tmp_path))
    assert trainer.main([file, *(f"--{name}=0" for name in changes)]) == 0
    assert trainer.main([file, "--sample_every=-1"]) == 1


def test_compiling_a_new_shape_counts_for_no_update(quick, tmp_path, monkeypatch, caplog):
    ticks, compiling = itertools.count(), []
    clock = types.SimpleNamespace(perf_counter=lambda: next(ticks) + 10**4 * len(compiling))
    monkeypatch.setattr(meter, "time", clock)
    monkeypatch.setattr(trainer, "compile_ahead", lambda *_: compiling.append(1) or {})
    small = dataclasses.replace(FIVE, frames=1)
    config = vae_config(tmp_path, stages=(stage(FIVE, steps=3), stage(small, steps=3)))
    with caplog.at_level(logging.INFO, "vjax"):
        trainer.train(dataclasses.replace(config, checkpoint_every=0))
    speeds = re.findall(r"step (\d+)  loss.* clips_per_second (\S+)", caplog.text)
    assert len(compiling) == 2
    assert [int(step) for step, _ in speeds] == [2, 3, 4, 5, 6]
    assert all(float(speed) > 1 for _, speed in speeds)


def test_a_run_is_repeated_from_a_place_of_any_name(quick, tmp_path):
    place = tmp_path / 'a \\N{x} """ b'
    trainer.train(vae_config(place, minutes=0.01))
    assert validation.load_config(str(place / "run" / "repeat.py")).run_dir == str(place)


def test_a_signal_while_clips_are_awaited_is_heard_at_once(quick, tmp_path, monkeypatch, capsys):
    waited = []

    class Slow(Stream):
        def abstract(self, bucket):
            return None

        def wait(self, update):
            waited.append(update.step)
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait()

    monkeypatch.setattr(trainer, "Resident", Slow)
    config = vae_config(tmp_path, data=DataConfig(resident=8))
    assert trainer.main([write_config(tmp_path, config)]) == 0
    assert "Stopped at step 0, before the first update." in capsys.readouterr().err
    assert (waited, quick) == ([0], [])


def test_a_run_that_diverged_goes_on_with_a_lower_rate(quick, tmp_path, monkeypatch, capsys):
    file = write_config(tmp_path, vae_config(tmp_path))
    monkeypatch.setattr(trainer, "train_step", fake_step([1, 1, np.nan, 1]))
    assert trainer.main([file]) == 1
    (advice,) = re.findall(r"with a lower (--\S+)", capsys.readouterr().err)
    monkeypatch.setattr(trainer, "train_step", fake_step([1] * 4))
    assert trainer.main([file, f"{advice}=1e-4"]) == 0
    assert "\nrun: 12 parameters" in capsys.readouterr().err  # a message is what it says, no more
    assert saved_steps(tmp_path) == [2, 4]


def test_a_run_directory_has_one_process(quick, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with alone_in(tmp_path / "run"):
        assert trainer.main([write_config(tmp_path, vae_config(tmp_path))]) == 1
    assert "trains in" in capsys.readouterr().err
    assert quick == []


def test_what_a_preview_would_fail_on_is_said_before_the_first_step(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "train_step", None)
    odd = vae_config(tmp_path)
    odd = dataclasses.replace(odd, model=dataclasses.replace(odd.model, height=36))
    with pytest.raises(ConfigError, match=r"32x36, does not suit its VAE.*multiples of 8"):
        trainer.train(odd)
    asked = dit_config(tmp_path, vae=bundle, init=bundle, sample_prompts=("a red circle", " "))
    with pytest.raises(ConfigError, match="sample_prompts has ' ': The prompt is empty"):
        trainer.train(asked)
    wide = dataclasses.replace(asked.model, width=36)
    with pytest.raises(ConfigError, match=r"sample_prompts has 'a red circle': .*36"):
        trainer.train(dataclasses.replace(asked, model=wide))
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_has_the_same_bits_as_users_run_it(optimized, bundle, tmp_path, monkeypatch):
    one_device = functools.partial(meshes.make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(meshes, "make_mesh", one_device)
    monkeypatch.setattr(trainer, "_export", lambda *_: None)
    pictures = dataclasses.replace(FIVE, frames=1)
    config = dit_config(
        tmp_path,
        vae=bundle,
        init=bundle,  # drawing weights compiles for longer than all else here
        stages=(stage(pictures),),
        sample_every=0,
        checkpoint_every=100,
    )
    trainer.train(config)
    whole = final_state(config, 4)
    (tmp_path / "run").rename(tmp_path / "whole")
    trainer.train(dataclasses.replace(config, steps=2))
    trainer.train(config)
    jax.tree.map(np.testing.assert_array_equal, final_state(config, 4), whole)


# --- The command ---------------------------------------------------------------------------------


def write_config(directory: pathlib.Path, config: RunConfig) -> str:
    (directory / "values.json").write_text(json.dumps(validation.to_dict(config)))
    (directory / "config.py").write_text(
        "import json\n"
        "from vjax import config as configs, validation\n"
        "def get_config():\n"
        f"    values = json.load(open({str(directory / 'values.json')!r}))\n"
        "    return validation.from_dict(configs.RunConfig, values)\n"
    )
    return str(directory / "config.py")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.py"], "no config file missing.py"),
        (["CONFIG", "--stepz=3"], "did you mean 'steps'"),
        (["CONFIG", "--steps=many"], "must be a whole number"),
        (["CONFIG", "--trains=dit"], "needs the bundle of a trained VAE"),
        (["CONFIG", "--trains=both"], "trains"),
        (["CONFIG", "--optimizer.name=sgd"], "must be one of .adamw., .muon."),
        (["CONFIG", "--init=nowhere"], "Unknown model 'nowhere'"),
        (["CONFIG", "--run_dir=gs://bucket/runs"], "must be a directory: mount the bucket"),
        (["BATCH"], "multiple of the 8 devices"),
        (["CONFIG", "--mesh.fsdp=3"], "does not divide the 8 devices"),
        (["CONFIG", "--mesh.context=2"], "leave mesh.context and mesh.tensor out"),
        (
            ["CONFIG", "--mesh.attention=flash"],
            "must be one of .auto., .gather., .ulysses., .ring.",
        ),
        (["FRAMES"], r"frames must be 1 \+ 2 k"),
        (["SIZE"], "multiples of 16"),
        (["CROP"], "crop must be at most the height and the width"),
        (["ANCHORS"], "more anchors than latent frames"),
        (["LEAD"], "a window with a lead"),
    ],
)
def test_what_is_wrong_with_a_run_is_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    changes = {"BATCH": {"batch": 12}, "FRAMES": {"frames": 4}, "SIZE": {"height": 40}}
    changes |= {"CROP": {"crop": 48}, "ANCHORS": {"anchors": 4}, "LEAD": {"lead": 1, "boxes": True}}
    bucket = dataclasses.replace(FIVE, **changes.get(arguments[0], {}))
    config = vae_config(tmp_path, stages=(stage(bucket),))
    monkeypatch.setattr(trainer, "train_step", None)
    file = write_config(tmp_path, config)
    arguments = [file if a == "CONFIG" or a in changes else a for a in arguments]
    assert trainer.main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("vjax.train: ")]
    assert "Traceback" not in err
    assert re.search(message, line), line
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_command_says_how_it_is_used(capsys):
    assert trainer.main(["--help"]) == 0
    assert "python -m vjax.train configs/FILE.py" in capsys.readouterr().out
    assert trainer.main([]) == 2
