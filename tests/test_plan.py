"""Plans of slices that are not there."""

import dataclasses
import json
import math
import os
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_wan

import vjax
from vjax import memory, plan, stages, validation, weights
from vjax.config import Bucket, ConfigError, Group, MeshConfig, ModelConfig, RunConfig, Stage
from vjax.models import flops
from vjax.parallel import ahead, programs, rehearsal, search, slices
from vjax.parallel import mesh as meshes
from vjax.pipeline import Pipeline
from vjax.timeline import RequestError, Timeline

ONE = MeshConfig(data=1)
CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
CONFIG, WAN = str(CONFIGS / "world_dit.py"), str(CONFIGS / "wan_1_3b.py")


def video(model: ModelConfig, frames=None, size=None) -> rehearsal.Video:
    return rehearsal.video(model, Timeline("a video", frames=frames, size=size))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "choose from v4, v5e, v5p, v6e, tpu7x"),
        ("v5e", "A slice of v5e is one such as v5e:4x4"),
        ("v5p:4x4", "A slice of v5p is one such as v5p:2x4x4"),
        ("v5e:0x", "one such as"),
    ],
)
def test_what_is_no_slice_is_answered_with_one(name, message):
    with pytest.raises(ConfigError, match=message):
        slices.parse(name)


def test_a_chip_is_as_many_devices_as_on_a_tpu_vm():
    pytest.importorskip("libtpu", reason="the TPU's compiler is not here")
    for kind, chip in slices.CHIPS.items():
        size = "2x2x1" if "2x2x1" in chip.sizes else "2x2"
        assert len(slices.devices(f"{kind}:{size}")) == 4 * chip.devices


def test_what_cannot_be_planned_is_one_line(tmp_path, capsys):
    assert plan.main([CONFIG, "--slice", "v9:2x2"]) == 2
    assert plan.main(["nowhere", "--slice", "v5e:1x1"]) == 2
    assert plan.main([CONFIG, "--slice", "v5e:1x1", "--stepz=1"]) == 2
    for count in (0, 10**9):
        assert plan.main([CONFIG, "--slice", "v5e:1x1", "--slices", str(count)]) == 2
    prompt = ["text", "--prompt", "a red circle"]
    (tmp_path / "lines.txt").write_text("a red circle\na blue one\n")
    refused = {
        "after it": ["--frames=5", *prompt],
        "leave out --model": [*prompt, "--model=tiny"],
        "leave out --lora": [*prompt, "--lora=a.safetensors"],
        "leave out --variations": [*prompt, "--variations=2"],
        "leave out --prompts": ["text", f"--prompts={tmp_path}/lines.txt"],
        "leave out --upsample": [*prompt, "--upsample"],
        "choose float32 or bfloat16": [*prompt, "--dtype=float16"],
        "prompt": ["animate", "nowhere.png"],
    }
    for more in refused.values():
        assert plan.main(["default", "--slice", "v5e:1x1", *more]) == 2
    assert plan.main([CONFIG, "--slice", "v5e:1x1", "--int8"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["vjax.plan"] * (6 + len(refused))
    assert all("--slices" in line for line in lines[3:5])
    for line, said in zip(lines[5:], (*refused, "add --sample"), strict=True):
        assert said in line


def test_without_the_compiler_it_is_said_how_to_get_it(monkeypatch, capsys):
    def missing(*_, **__):
        raise RuntimeError("Unable to initialize: libtpu.so not found")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", missing)
    for asked in (["--slice", "v5e:1x1"], ["--search"], ["--search", "--slice", "v6e"]):
        assert plan.main(["default", *asked]) == 2
        assert 'pip install "vjax[tpu]"' in capsys.readouterr().err


def test_what_a_model_cannot_make_or_a_run_lacks_is_said_before_anything_is_compiled(monkeypatch):
    run = validation.load_config(WAN)
    with pytest.raises(RequestError, match="sides are multiples of 16 from 64 to 1280"):
        video(run.model, 81, (1920, 1088))
    without = dataclasses.replace(run, model=dataclasses.replace(run.model, vae=None))
    with pytest.raises(ConfigError, match="no vae"):
        video(without.model)
    with pytest.raises(ConfigError, match="--vae=BUNDLE"):
        search.work(without, None, slices.CHIPS["v5e"])


def test_a_long_video_is_planned_by_its_windows():
    model = dataclasses.replace(validation.load_config(WAN).model, max_side=1920)
    asked = video(model, 961, (1920, 1088))
    ((shapes, windows),) = asked.windows
    assert shapes.source.shape == (1, 21, 136, 240, 16)
    assert asked.decoded == {(136, 240): 241}
    assert windows == 1 + math.ceil((241 - 21) / (21 - 5))


CARDS = (
    {"at": 0, "text": "a red circle"},
    {"at": 2, "text": "blue", "soften": 0.2},
    {"at": 4, "image": tiny.clip(1)},
)
CHARACTER = {"character": [tiny.clip(1, seed=3)]}


@pytest.mark.parametrize(
    ("timeline", "kinds"),
    [
        (
            vjax.storyboard(CARDS, frames=41, **CHARACTER),
            [("2 steps of 5x4x4 latents and 1 anchors", 1), ("2 steps of 5x4x4 latents and 2", 2)],
        ),
        (
            vjax.remix(tiny.clip(5), "blue", source_prompt="red", **CHARACTER),
            [("2 steps of 2x4x4 latents and 1 anchors", 1)],
        ),
        (
            vjax.upscale(tiny.clip(5), "red", size=(80, 80), **CHARACTER),
            [("1 steps of 2x10x10 latents and 1 anchors in 16 tiles", 1)],
        ),
    ],
    ids=["storyboard", "remix", "upscale"],
)
def test_what_a_verb_adds_is_planned_and_counted(timeline, kinds):
    made, config = rehearsal.video(tiny.MODEL, timeline), MeshConfig(data=1)
    mesh = meshes.make_mesh(config, jax.devices()[:1])
    with meshes.use(mesh, config):
        jobs = programs.sampling(tiny.MODEL, mesh, made)
        for job in jobs:
            counted = flops.traced(job.trace().jaxpr)
            assert 0.95 * counted <= job.model_flops <= counted, job.name
    steps = [job for job in jobs if " steps of " in job.name]
    for job, (name, times) in zip(steps, kinds, strict=True):
        assert job.name.startswith(name)
        assert job.times == times


class Noted:
    """A stage that notes what it is called or traced with, and computes nothing."""

    def __init__(self, stage, found: set[str]):
        self.stage, self.found, self.__wrapped__ = stage, found, stage.__wrapped__

    def __call__(self, *arguments):
        self.trace(*arguments)
        shapes = self.stage.eval_shape(*arguments)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def trace(self, *arguments):
        def kind(x):
            return "number" if np.ndim(x) == 0 else (x.shape, x.dtype)

        leaves, structure = jax.tree.flatten(arguments)
        kinds = [kind(x) if hasattr(x, "dtype") or isinstance(x, int) else x for x in leaves]
        self.found.add(f"{self.stage.__name__} {jax.tree.unflatten(structure, kinds)}")


def test_the_programs_of_a_plan_are_those_of_a_run(tmp_path, monkeypatch):
    bundle = weights.open(tiny_wan.write(tmp_path, "i2v"))
    model = dataclasses.replace(bundle.config, boundary=0.9)
    params = {**bundle.params, "low": bundle.params["dit"]}
    bundle = dataclasses.replace(bundle, config=model, params=params)
    found: set[str] = set()
    for name in ("_embed", "_look", "_encode", "_advance", "_decode"):
        monkeypatch.setattr(stages, name, Noted(getattr(stages, name), found))
    asked = vjax.animate(tiny.clip(1)[0], "a dog", frames=9, size=(64, 64))
    Pipeline(bundle, "bfloat16", int8=True)(asked, steps=3)
    run = found.copy()
    found.clear()
    made = dataclasses.replace(rehearsal.video(model, asked, steps=3), int8=True)
    texts, *others = programs.sampling(model, meshes.make_mesh(ONE, jax.devices()[:1]), made)
    for job in (texts, *others):
        job.trace()
    assert found < run
    assert (len(found), len(run)) == (5, 7)  # latents before which there are none are not planned
    held = memory.held(model, "bfloat16", int8=True)
    assert sum(texts.resident.values()) == sum(held.values())  # there is room for all
    for job in others:
        assert job.resident["second expert"] == held["low"]
        assert job.resident["image encoder"] == held["image"]


def test_a_plan_takes_types_before_or_after_a_verb(monkeypatch):
    seen = []

    def compiled(run, video, **_):
        seen.append((video.dtype, video.int8))
        return meshes.make_mesh(ONE, jax.devices()[:1]), []

    monkeypatch.setattr(slices, "devices", lambda *_: jax.devices()[:1])
    monkeypatch.setattr(plan, "compiled", compiled)
    asked, verb = ["default", "--slice", "v5e:1x1"], ["text", "--prompt", "a red circle"]
    for more in ([], ["--int8", "--dtype=float32"], [*verb, "--int8", "--dtype", "float32"]):
        assert plan.main([*asked, *more]) == 0
    assert seen == [("bfloat16", False), ("float32", True), ("float32", True)]


def test_layouts_divide_heads_and_clips_and_the_largest_come_last():
    run, chip = validation.load_config(WAN), slices.CHIPS["v6e"]
    need = search.work(run, video(run.model, 81, (832, 480)), chip)
    found = search.layouts(run, need, chip, 8)
    assert found == sorted(found, key=lambda each: each[0])
    for _, _, layout in found:
        assert layout.data * layout.fsdp * layout.context * layout.tensor == 8
        assert layout.data * layout.fsdp <= 2  # guidance has two branches
        assert 12 % layout.tensor == 0
    # Both branches at once, and all heads exchanged for tokens.
    assert found[0][2] == MeshConfig(data=2, fsdp=1, context=4, tensor=1)
    assert search.layouts(run, need, chip, 8, slices_count=4) == []


def test_a_search_goes_from_the_smallest_slice_and_says_what_it_tried():
    run, said, tried = validation.load_config(WAN), [], []

    def compiled(name, layout):
        tried.append((name, layout))
        job = ahead.Job("gradient", dict, {"parameters": 1.0})
        # The first that is compiled turns out to be too large.
        return [ahead.Part(job, temporaries=1e15 if len(tried) == 1 else 1.0)]

    name, layout, _ = search.smallest(run, None, ("v5e",), compiled, said.append)
    assert said[0].startswith("v5e:1x1: too small, about")
    assert "gradient does not fit" in "".join(said)
    assert (name, layout) == tried[-1]
    assert len(tried) == 2
    assert (
        search.smallest(
            run,
            None,
            ("v5e",),
            lambda *_: [ahead.Part(ahead.Job("x", dict, {"p": 1e15}))],
            said.append,
        )
        is None
    )


def test_advice_names_a_layout_that_fits():
    run, chip = validation.load_config(WAN), slices.CHIPS["v5p"]
    run = dataclasses.replace(run, mesh=MeshConfig())
    need = search.work(run, None, chip)
    job = ahead.Job("gradient", dict, {"parameters": 90e9})
    said = plan.advice([ahead.Part(job, temporaries=90e9)], run, need, chip, 8)
    assert re.search(r"this layout fits: .*--mesh.fsdp=", " ".join(said))
    assert plan.advice([ahead.Part(job)], run, need, chip, 8) == []


def test_what_layers_leave_for_their_gradient_is_their_inputs():
    def loss(kernels, x):
        layer = jax.checkpoint(lambda x, kernel: (jnp.tanh(jnp.tanh(x @ kernel) @ kernel), None))
        return jax.lax.scan(layer, x, kernels)[0].sum()

    shapes = jnp.zeros((50, 32, 32)), jnp.zeros((16, 32))
    assert ahead.kept(jax.make_jaxpr(jax.grad(loss))(*shapes)) == 50 * 16 * 32 * 4
    assert ahead.kept(jax.make_jaxpr(loss)(*shapes)) == 0


def test_what_the_compiler_says_is_heard(capfd):
    lines = []
    with slices.heard(lines):
        os.write(2, b"Involuntary full rematerialization.\n")
    assert lines == ["Involuntary full rematerialization."]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("layout", "frames"), [(MeshConfig(fsdp=8), 1), (MeshConfig(fsdp=2, context=4), 5)], ids=str
)
def test_a_gradient_on_many_devices_computes_and_gathers_what_it_has_to(layout, frames):
    dit = dataclasses.replace(tiny.MODEL.dit, remat=True)
    model = dataclasses.replace(tiny.MODEL, dit=dit)
    stage = Stage((Group((Bucket(frames, 32, 32, 8),)),), 1)
    run = RunConfig("tiny", "dit", model, (stage,), mesh=layout, dtype="float32")
    mesh = meshes.make_mesh(run.mesh)
    job, _ = programs.training(run, mesh)
    with meshes.use(mesh, run.mesh):
        part = ahead.compile(job, mesh, mesh.size, print)
    assert part.problem is None
    assert not any("head" in warning for warning in part.warnings)
    assert part.bytes["activations"] > 0
    if layout.context == 1:  # in so small a model what is exchanged by context outweighs the rest
        assert part.warnings == ()
        assert 0.8 < part.excess <= 1.1
        assert 0.8 < part.gathers <= 1.2


def test_a_training_step_and_a_video_are_compiled_for_a_slice(capsys):
    pytest.importorskip("libtpu", reason="the TPU's compiler is not here")
    bucket = {"frames": 5, "height": 64, "width": 64, "batch": 8}
    stages = f"({{'groups': ({{'buckets': ({bucket},)}},), 'steps': 1}},)"
    asked = [CONFIG, "--slice", "v5e:2x2", "--mesh.fsdp=4", "--vae=default", "--json"]
    assert plan.main([*asked, f"--stages={stages}"]) == 0
    found = json.loads(capsys.readouterr().out)
    *gradients, optimizer = found["programs"]
    assert optimizer["name"] == "optimizer"
    for program in gradients:
        # What the compiler made of it computes what is counted by hand, and the VAE's part.
        assert program["model_flops"] < program["compiled_flops"]
        assert program["flops_of_needed"] <= 1.1
        assert program["gathered_of_needed"] <= 1.2
        assert program["warnings"] == []
        assert 0 < sum(program["bytes"].values()) < found["memory_bytes"]
    assert plan.main(["default", "--slice", "v5e:1x1", "--json"]) == 0
    _, steps, _ = json.loads(capsys.readouterr().out)["programs"]
    assert steps["collectives"] == {}
    assert steps["compiled_flops"] < 1.1 * steps["model_flops"]
