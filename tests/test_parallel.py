"""Sharding: every layout of eight devices gives what one gives, and divides what is large."""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import Mesh, PartitionSpec

from vjax import flow, models, pipeline, sampler, solvers, stages, timeline
from vjax.config import (
    Bucket,
    ConfigError,
    Group,
    MeshConfig,
    OptimizerConfig,
    RunConfig,
    SamplerConfig,
    Stage,
)
from vjax.models.attention import attention
from vjax.parallel import mesh as meshes
from vjax.parallel import rules
from vjax.training.checkpoint import Checkpoints
from vjax.training.dit import DiTTask
from vjax.training.state import accumulate, init_state, train_step

# Five patches in a frame: nothing that tokens are divided by here divides them.
BUCKET = Bucket(frames=3, height=8, width=40, batch=8, anchors=1, boxes=True)
MODEL = tiny.model(
    dit=dataclasses.replace(tiny.MODEL.dit, heads=4, head_dim=4, ffn=40, depth=1, text_width=24),
    vae=dataclasses.replace(
        tiny.MODEL.vae, patch_size=8, dim_mult=(1,), temporal_downsample=(),
    ),
    text=dataclasses.replace(tiny.MODEL.text, width=24, heads=4, max_length=6, vocab=264),
)  # fmt: skip
STAGE = Stage((Group((BUCKET,)),), steps=2)
CONFIG = RunConfig("run", "dit", MODEL, (STAGE,), optimizer=OptimizerConfig(weight_decay=0.1))

ONE = MeshConfig(data=1)
PLAIN = [MeshConfig(data=8), MeshConfig(fsdp=8), MeshConfig(tensor=4, data=2)]
BETWEEN = [
    MeshConfig(context=4, attention="gather"),
    MeshConfig(context=4, attention="ulysses"),
    MeshConfig(context=4, attention="ring"),
    MeshConfig(fsdp=2, tensor=2, context=2, attention="gather"),
    MeshConfig(fsdp=2, tensor=2, context=2, attention="ulysses"),
    MeshConfig(fsdp=2, tensor=2, context=2, attention="ring"),
]


def name(config: MeshConfig) -> str:
    values = dataclasses.asdict(config).items()
    return " ".join(f"{k} {v}" for k, v in values if v not in (None, 1, "auto"))


def batch() -> dict[str, np.ndarray]:
    """Clips of noise; one text is empty and one is full."""
    rng = np.random.default_rng(1)
    ids = rng.integers(1, 264, (8, 6)).astype(np.int32)
    mask = np.arange(6)[None] < np.array([0, 6, 1, 2, 3, 4, 5, 6])[:, None]
    video = rng.integers(0, 256, (8, 3, 8, 40, 3)).astype(np.uint8)
    return {"video": video, "ids": ids * mask, "mask": mask}


@functools.cache
def mesh_of(config: MeshConfig) -> Mesh:
    return meshes.make_mesh(config, jax.devices()[: 1 if config == ONE else 8])


def start(config: MeshConfig):
    """Parameters of the trained networks, of the frozen one, and a batch, as they lie on a mesh."""
    mesh, params = mesh_of(config), tiny.params(MODEL)
    params = rules.placed(params, mesh)
    return params, {"vae": params.pop("vae")}, meshes.place_batch(mesh, batch())


@functools.cache
def gradients(config: MeshConfig, dtype: str | None = None):
    """Loss, gradients, and the compiled program."""
    (params, frozen, clips), run = start(config), dataclasses.replace(CONFIG, dtype=dtype)
    task = DiTTask(run)
    zeros = jax.tree.map(jnp.zeros_like, params)
    rest = (clips, zeros, jnp.int32(0), np.int32(0), np.float32(1))
    with meshes.use(mesh_of(config), config):
        program = accumulate.lower(task, BUCKET, params, frozen, *rest).compile()
        found, metrics = program(params, frozen, *rest)
    return jax.device_get(metrics["loss"]), jax.device_get(found), program


def close(found, expected, tolerance=1e-5):
    def check(path, a, b):
        error, size = np.abs(a - b).max(), np.abs(b).max()
        assert error <= tolerance * size + 1e-9, (jax.tree_util.keystr(path), error, size)

    jax.tree.map_with_path(check, found, expected)


@pytest.mark.parametrize("config", PLAIN + BETWEEN, ids=name)
def test_loss_and_gradients_are_those_of_one_device(config):
    loss, found, _ = gradients(config)
    expected, wanted, _ = gradients(ONE)
    assert loss == pytest.approx(expected, rel=1e-5)
    close(found, wanted)


def test_half_precision_on_a_mesh_is_close_to_that_of_one_device():
    loss, found, _ = gradients(BETWEEN[-1], "bfloat16")
    expected, wanted, _ = gradients(ONE, "bfloat16")
    assert gradients(ONE)[0] != expected == pytest.approx(loss, rel=0.01)
    close(found, wanted, 0.1)


def test_what_is_large_is_divided_in_the_program_too():
    _, found, program = gradients(BETWEEN[-2])
    # Each gradient leaves as its parameter lies: kernels of stacked layers in four, others in two.
    outputs, _ = program.output_shardings
    for path, leaf in jax.tree.leaves_with_path(found):
        where = jax.tree_util.keystr(path)
        if leaf.size > 200:
            parts = 4 if re.search("blocks|layers|embedding", where) else 2
            (sharding,) = [s for p, s in jax.tree.leaves_with_path(outputs) if p == path]
            assert leaf.size == parts * np.prod(sharding.shard_shape(leaf.shape)), where
    # Tokens [8 4 6 16] are in four, hidden layers [8 4 6 40] in eight, kernels in use in two.
    shapes = set(re.findall(r"(?:f32|bf16)\[([\d,]+)\]", program.as_text()))
    assert {"4,4,3,16", "4,4,3,20", "16,20"} <= shapes
    whole = {"8,4,6,16", "8,4,3,16", "4,4,6,16", "8,4,6,40", "4,4,3,40", "8,4,3,20", "16,40"}
    assert not whole & shapes


def test_a_state_leaves_a_step_as_it_came_and_moves_to_another_mesh(tmp_path):
    config = BETWEEN[-2]
    (params, frozen, clips), task = start(config), DiTTask(CONFIG)
    with meshes.use(mesh_of(config), config):
        state = init_state(task, params)
    before = jax.tree.map(lambda x: x.sharding, state)
    kernel = state["params"]["dit"]["blocks"]["ffn"]["up"]["kernel"]
    moment = state["optimizer"][1][0].mu["dit"]["blocks"]["ffn"]["up"]["kernel"]
    for leaf in (kernel, moment, state["ema"]["dit"]["blocks"]["ffn"]["up"]["kernel"]):
        assert leaf.sharding.spec == PartitionSpec(None, ("fsdp",), ("tensor",))
    with meshes.use(mesh_of(config), config):
        program = concurrent.futures.Future()
        program.set_result(gradients(config)[2])
        parts = [(BUCKET, clips)]
        state, _ = train_step(task, state, frozen, parts, 1e-2, 0.9, {BUCKET: program})
    assert kernel.is_deleted()  # its memory was used again
    same = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), state, before)
    assert all(jax.tree.leaves(same))
    checkpoints = Checkpoints(tmp_path, CONFIG)
    checkpoints.save(1, state)
    checkpoints.close()
    for other in (MeshConfig(tensor=4, data=2), ONE):
        fresh = jax.tree.map(np.zeros_like, jax.device_get(state))
        fresh = rules.placed(fresh, mesh_of(other))
        # The mesh is no setting that must stay.
        checkpoints = Checkpoints(tmp_path, dataclasses.replace(CONFIG, mesh=other))
        restored = checkpoints.read(checkpoints.newest(), fresh)
        checkpoints.close()
        jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (restored, state)))
        for found, wanted in zip(*map(jax.tree.leaves, (restored, fresh)), strict=True):
            assert found.sharding == wanted.sharding


def test_what_is_drawn_does_not_depend_on_the_mesh():
    task, mesh = DiTTask(CONFIG), meshes.make_mesh(BETWEEN[-1])
    small = dataclasses.replace(task, config=dataclasses.replace(CONFIG, frozen=("dit",)))
    with meshes.use(mesh, BETWEEN[-1]):
        divided = init_state(small)
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (divided, init_state(small))))


# --- Attention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("way", ["auto", "gather", "ring"])
def test_attention_is_exact_where_neither_tokens_nor_heads_divide(way, remat, monkeypatch):
    """12 heads and 13 positions on 8 devices, of which one has nothing but padding."""
    monkeypatch.setattr("vjax.parallel.context.SCORES", 6)  # two of four queries at a time
    shapes = [(1, 2, 13, 12, 4)] * 3
    qkv = [2 * jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]

    def run(q, k, v):
        def attend(q, k, v):
            return attention(*map(rules.filled, (q, k, v)), positions=13)[:, :, :13]

        out = (jax.checkpoint(attend) if remat else attend)(q, k, v)
        return jnp.sum(jnp.sin(out)), out

    run = jax.value_and_grad(run, argnums=(0, 1, 2), has_aux=True)
    expected = jax.jit(run)(*qkv)
    config = MeshConfig(context=8, attention=way)
    mesh = meshes.make_mesh(config)
    with meshes.use(mesh, config):
        program = jax.jit(run).lower(*qkv).compile()
        close(jax.device_get(program(*qkv)), jax.device_get(expected))
    assert ("collective-permute" in program.as_text()) == (way == "ring")


@pytest.mark.parametrize(
    ("spec", "axis"), [(("a",), 1), ((None, "b"), 0), (("a", "b"), 1), (("b", "a"), 0)]
)
def test_a_divided_array_is_cut_where_no_device_gathers_it(spec, axis, monkeypatch):
    monkeypatch.setattr(meshes, "_BLOCK", 2**14)
    program, cuts = meshes._cut, []

    def cut(*arguments):
        run = program(*arguments)
        return lambda x, start: cuts.append(arguments[0]) or run(x, start)

    monkeypatch.setattr(meshes, "_cut", cut)
    value = np.random.default_rng(0).normal(size=(288, 72)).astype(np.float32)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    placed = jax.device_put(value, jax.sharding.NamedSharding(mesh, PartitionSpec(*spec)))
    np.testing.assert_array_equal(meshes._in_blocks(placed, True), value)
    assert cuts == [axis] * 6
    assert meshes._in_blocks(placed, False) is None


SIXTEEN = """
import jax, numpy as np
from vjax.config import MeshConfig
from vjax.models.attention import attention
from vjax.parallel import mesh as meshes, rules

qkv = [2 * jax.random.normal(jax.random.key(i), (1, 2, 39, 12, 4)) for i in range(3)]

@jax.checkpoint
def attend(q, k, v):
    return attention(*map(rules.filled, (q, k, v)), positions=39)[:, :, :39]

def loss(*qkv):
    return jax.numpy.sum(jax.numpy.sin(attend(*qkv)))

run = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
expected = jax.device_get(run(*qkv))
for way in ("gather", "ring"):
    config = MeshConfig(context=16, attention=way)
    with meshes.use(meshes.make_mesh(config), config):
        found = jax.device_get(run(*qkv))
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert np.abs(a - b).max() <= 2e-5 * np.abs(b).max(), way
"""


def test_12_heads_are_shared_by_16_devices():
    environment = {
        **os.environ,
        "PYTHONPATH": str(pathlib.Path(__file__).parent.parent),
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=16"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SIXTEEN],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_keys_and_values_that_do_not_fit_travel_in_a_ring(monkeypatch):
    monkeypatch.setattr("vjax.parallel.context.GATHERED_BYTES", 100)
    config = MeshConfig(context=8)
    q = jnp.ones((1, 2, 8, 3, 4))
    with meshes.use(meshes.make_mesh(config), config):
        text = jax.jit(attention).lower(q, q, q).compile().as_text()
    assert "collective-permute" in text


@pytest.mark.parametrize("way", ["gather", "ulysses", "ring"])
def test_attention_to_a_text_exchanges_nothing(way):
    config = MeshConfig(context=4, tensor=2, attention=way)
    q, k, v = (
        jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate([(1, 2, 8, 2, 4), (1, 5, 2, 4), (1, 5, 2, 4)])
    )
    expected = attention(q, k, v)
    with meshes.use(meshes.make_mesh(config), config):
        program = jax.jit(attention).lower(q, k, v).compile()
        close(np.asarray(program(q, k, v)), np.asarray(expected))
    for collective in ("all-to-all", "collective-permute", "all-gather", "all-reduce"):
        assert collective not in program.as_text()


# --- Sampling ------------------------------------------------------------------------------------


@functools.cache
def sampled(config: MeshConfig | None, spoken: bool = False) -> np.ndarray:
    """Latents of four clips with guidance, some known, one of them anchored.

    With two texts, each of which some frames hear, if `spoken`.
    """
    pipe = pipeline.Pipeline(tiny.bundle(MODEL), mesh=config)
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    known = np.zeros((4, 3, 1, 5, 1), np.float32)
    known[:, 0] = 1
    known[:, 1, :, :3] = 0.5
    condition = sampler.Condition(
        source=normal(4, 3, 1, 5, 4),
        strength=known,
        anchors=normal(4, 1, 1, 5, 4),
        positions=np.arange(12.0, dtype=np.float32).reshape(4, 3) % 3,
        anchor_positions=np.full((4, 1), 5, np.float32),
        text=normal(4, 6, 24),
        negative=np.zeros((4, 6, 24), np.float32),
    )
    if spoken:
        bias = np.zeros((4, 4, 6), np.float32)
        bias[:, :2, 3:] = bias[:, 2:, :3] = -np.inf
        condition = dataclasses.replace(condition, text_bias=bias)
    chosen = SamplerConfig(solver="euler", steps=2, guidance=3.0)
    method = pipeline.Method(chosen, solvers.EULER, flow.schedule(2, 1.0))
    noise, keys = pipe.noise(range(4), 0, (3, 1, 5, 4))
    state = pipe.start(condition, noise, keys, method)
    state = pipe.advance(condition, state, 0, 2, method)
    return np.asarray(sampler.finish(condition, state))


@pytest.mark.parametrize("config", PLAIN + BETWEEN, ids=name)
def test_sampled_latents_are_those_of_one_device(config):
    assert np.abs(sampled(None)[:, 1:]).std() > 0.1
    close(sampled(config), sampled(None))


@pytest.mark.parametrize(
    "config", [MeshConfig(data=2, context=2, tensor=2), MeshConfig(fsdp=2, context=4)], ids=name
)
def test_texts_that_some_frames_hear_are_those_of_one_device(config):
    alone = sampled(None, spoken=True)
    assert np.abs(alone[:, 1:] - sampled(None)[:, 1:]).max() > 0.01
    close(sampled(config, spoken=True), alone)


def test_a_run_on_a_mesh_shows_what_one_device_shows():
    """Two samples with guidance, which its eight devices cannot share."""
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=8), sample_prompts=("a", "red"))
    bundle = tiny.bundle(MODEL)
    lies = rules.placed(bundle.params, mesh_of(config.mesh))
    placed = dataclasses.replace(bundle, params=lies)
    found, _ = DiTTask(config).preview(placed)
    alone = pipeline.Pipeline(bundle)
    wanted = [alone(timeline.Timeline(text), seed=i) for i, text in enumerate(("a", "red"))]
    assert np.abs(found - np.concatenate(wanted, axis=2).astype(float)).max() <= 1
    cast = pipeline.Pipeline(placed, "bfloat16", config.mesh).params
    lies = {network: lies[network] for network in cast}
    same = jax.tree.map(lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim), cast, lies)
    assert all(jax.tree.leaves(same))
    kernel = cast["dit"]["blocks"]["ffn"]["up"]["kernel"]
    assert (kernel.dtype, kernel.sharding.spec) == (jnp.bfloat16, PartitionSpec(None, ("fsdp",)))


@pytest.mark.parametrize(
    ("sides", "part", "mesh"),
    [
        ((4, 4), (4, 32), MeshConfig(fsdp=2, context=4)),
        ((2, 4), (16, 4), MeshConfig(context=4)),
        ((3, 2), (24, 2), MeshConfig(context=2, tensor=2)),
    ],
    ids=str,
)
def test_devices_share_the_rows_or_the_columns_of_frames_in_the_vae(sides, part, mesh):
    """All share one clip: its rows, unless columns divide rather.

    What is too small for all of them is shared by some until it grows.
    """
    model = tiny.model(vae=dataclasses.replace(tiny.MODEL.vae, mid_attention=True))
    alone, shared = (pipeline.Pipeline(tiny.bundle(model), mesh=layout) for layout in (None, mesh))
    before = stages._decode._cache_size()
    latents = np.random.default_rng(0).normal(size=(1, 4, *sides, 4)).astype(np.float32)
    found = shared.decode(latents)
    assert stages._decode._cache_size() == before + 2  # a first latent, and any other
    assert found.sharding.shard_shape(found.shape) == (1, 13, *part, 3)
    close(np.asarray(found), np.asarray(alone.decode(latents)))
    video = np.asarray(found)[:, :5]
    close(np.asarray(shared.encode(video)), np.asarray(alone.encode(video)))


@pytest.mark.parametrize("stage", ["_decode", "_encode"])
@pytest.mark.parametrize(
    "mesh", [MeshConfig(context=8), MeshConfig(data=2, context=2, tensor=2)], ids=name
)
def test_devices_exchange_the_edges_of_their_parts_of_a_frame_alone(stage, mesh):
    config = dataclasses.replace(tiny.MODEL.vae, mid_attention=False)
    latents, video = (1, 1, 8, 12, 4), (1, 4, 64, 96, 3)
    with meshes.use(meshes.make_mesh(mesh), mesh):
        run = functools.partial(getattr(stages, stage).lower, config, models.abstract(config))
        if stage == "_decode":
            first = functools.partial(stages._decode.__wrapped__, config, dtype=None)
            _, past = jax.eval_shape(first, models.abstract(config), jnp.ones(latents), None)
            text = run(jnp.ones(latents), past, None).compile().as_text()
        else:
            first = functools.partial(stages._encode.__wrapped__, config)
            image = jnp.ones(video)[:, :1]
            _, past = jax.eval_shape(first, models.abstract(config), image, None)
            text = run(jnp.ones(video), past).compile().as_text()
    assert "collective-permute(" in text
    for collective in ("all-gather(", "all-to-all(", "all-reduce("):
        assert collective not in text


def test_noise_is_that_of_one_device():
    alone = pipeline.Pipeline(tiny.bundle()).noise(range(8), 1, (3, 5, 4, 4))[0]
    for mesh in (MeshConfig(data=8), MeshConfig(data=2, context=4)):
        shared = pipeline.Pipeline(tiny.bundle(), mesh=mesh).noise(range(8), 1, (3, 5, 4, 4))[0]
        np.testing.assert_array_equal(shared, alone)


def test_long_clips_are_encoded_for_training_latent_by_latent(monkeypatch):
    vae = dataclasses.replace(
        tiny.MODEL.vae, dim_mult=(1, 1), temporal_downsample=(True,), patch_size=4
    )
    model = tiny.model(vae=vae)
    config, bucket = dataclasses.replace(CONFIG, model=model), Bucket(9, 16, 16, 2, anchors=1)
    clips = {"video": np.random.default_rng(0).integers(0, 256, (2, 9, 16, 16, 3), np.uint8)}
    clips |= {"ids": np.ones((2, 32), np.int32), "mask": np.ones((2, 32), bool)}

    def lowered():
        run = jax.jit(functools.partial(DiTTask(config).known, bucket))
        return run.lower(tiny.params(model), clips, jax.random.key(0))

    whole = lowered()
    monkeypatch.setattr("vjax.training.dit.WHOLE_UP_TO", 100)
    streamed = lowered()
    assert streamed.as_text().count("stablehlo.while") > whole.as_text().count("stablehlo.while")
    given = tiny.params(model), clips, jax.random.key(0)
    close(*(jax.device_get(program.compile()(*given)) for program in (streamed, whole)))


def test_samples_that_devices_cannot_share_are_refused():
    pipe = pipeline.Pipeline(tiny.bundle(), mesh=MeshConfig(data=8))
    request = timeline.Timeline("a red circle")
    message = r"8 devices \(mesh.data x mesh.fsdp\) cannot share 2 samples.*can be 1 or 2, and"
    with pytest.raises(timeline.RequestError, match=message):
        pipe(request)
    with pytest.raises(timeline.RequestError, match=message):
        pipe.stream(request)
    with pytest.raises(timeline.RequestError, match="cannot share 4 samples"):
        pipe.sample_batch([request] * 2, range(2))
    pipe.check(request, at_once=4)


# --- What cannot work ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (
            MeshConfig(fsdp=3),
            r"mesh.fsdp=3 .* is 3, which does not divide the 8 devices.*2, 4 or 8",
        ),
        (MeshConfig(data=2, context=2), r"is 4, and there are 8 devices.*which makes it 4"),
        (MeshConfig(data=16), "there are 8 devices"),
        (MeshConfig(tensor=8), r"share the 4 heads of model.dit: mesh.tensor can be 1, 2 or 4"),
        (
            MeshConfig(context=8, attention="ulysses"),
            r"4 heads .* among mesh.context=8 .* can be 1, 2 or 4, or .* gather or ring",
        ),
        (
            MeshConfig(tensor=2, context=4, attention="ulysses"),
            r"2 heads .* among mesh.context=4 .* can be 1 or 2, or",
        ),
    ],
    ids=str,
)
def test_a_mesh_that_cannot_work_is_refused_with_sizes_that_do(mesh, message):
    with pytest.raises(ConfigError, match=message):
        meshes.check(mesh, meshes.make_mesh(mesh), MODEL)


def test_what_stays_whole_is_said():
    text = dataclasses.replace(MODEL.text, vocab=257, heads=8)
    params = {"text": models.abstract(text)}
    (said,) = rules.undivided(params, meshes.make_mesh(MeshConfig(tensor=8)))
    assert said == "text/embedding [257, 24] is whole along tensor: 257 is no multiple of 8"
    assert not rules.undivided(tiny.params(MODEL), meshes.make_mesh(MeshConfig(tensor=4)))


def test_frames_that_stay_whole_for_a_while_are_said():
    mesh = meshes.make_mesh(MeshConfig(context=8))
    said = meshes.undivided_frames(mesh, 60, 100)
    assert said.startswith("8 devices divide neither the 60 rows nor the 100 col")
    assert meshes.undivided_frames(mesh, 60, 104) == meshes.undivided_frames(mesh, 8, 9) == ""


def test_devices_that_share_a_clip_get_the_same_part_of_a_batch():
    mesh = meshes.make_mesh(MeshConfig(fsdp=2, context=2))
    assert meshes.own_clips(mesh, 8) == list(range(8))
    with pytest.raises(ConfigError, match="multiple of 4"):
        meshes.own_clips(mesh, 6)
    placed = meshes.place_batch(mesh, {"ids": np.arange(8)[:, None]})["ids"]
    np.testing.assert_array_equal(placed, np.arange(8)[:, None])
    for shard in placed.addressable_shards:
        (place,) = np.argwhere(mesh.devices == shard.device)
        first = 4 * place[0] + 2 * place[1]
        assert np.asarray(shard.data).ravel().tolist() == [first, first + 1]
