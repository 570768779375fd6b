"""The bench measures shapes on any machine; interrupted, it gives the figures that it has."""

import dataclasses
import json
import sys
import types

import jax
import numpy as np
import pytest
import tiny

from vjax import bench, ending
from vjax.benchmarks import bundle, machine, peers, rounds, shapes
from vjax.config import ConfigError, DiTConfig, ModelConfig, TextConfig, VAEConfig


@pytest.mark.parametrize(
    ("ended", "status"), [(KeyboardInterrupt(), 130), (ending.Terminated(), 143)]
)
def test_ctrl_c_ends_without_a_traceback_and_keeps_finished_parts(
    ended, status, monkeypatch, capsys
):
    def data(runs):
        raise ended

    monkeypatch.setattr(machine, "matmul", lambda runs: {"matmul_gflops_per_second": 3.0})
    monkeypatch.setattr(bundle, "data", data)
    assert bench.main(["matmul", "--json", "data"]) == status
    out, err = capsys.readouterr()
    assert json.loads(out)["matmul_gflops_per_second"] == 3.0
    assert err == "vjax.bench: interrupted.\n"


CONFIG = """
from vjax.config import Bucket, Group, MeshConfig, RunConfig, Stage
from the_model import MODEL

def get_config():
    return RunConfig(
        name="shape",
        trains="dit",
        model=MODEL,
        frozen=("text",),
        stages=(Stage((Group((Bucket(1, 32, 32, batch=16),)),), steps=3),),
        mesh=MeshConfig(fsdp=16),
    )
"""


MODEL = tiny.model(
    frames=5,
    dit=dataclasses.replace(tiny.MODEL.dit, depth=1),
    vae=dataclasses.replace(
        tiny.MODEL.vae, patch_size=4, dim_mult=(1, 1), temporal_downsample=(True,)
    ),
    sampler=dataclasses.replace(tiny.MODEL.sampler, solver="euler"),
)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config of the tiny model, made for twice as many devices as there are."""
    monkeypatch.setitem(sys.modules, "the_model", types.SimpleNamespace(MODEL=MODEL))
    path = tmp_path / "shape.py"
    path.write_text(CONFIG)
    return str(path)


def test_a_config_is_measured_on_the_devices_that_are_here(config):
    found = shapes.read(config, [])
    assert found.mesh.fsdp == jax.device_count() == 8
    ((group,),) = (stage.groups for stage in found.stages)
    assert [bucket.batch for bucket in group.buckets] == [8]
    assert (found.model.text.depth, found.model.dit) == (1, MODEL.dit)
    with pytest.raises(ConfigError, match="depht"):
        shapes.read(config, ["--model.dit.depht=3"])


def test_a_shape_is_measured_against_a_matrix_product(config, monkeypatch, capsys):
    monkeypatch.setattr(machine, "matmul", lambda runs: {"matmul_gflops_per_second": 3.0})
    assert bench.main([config, "--runs=1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name, devices in (("train", 8), ("sample", 1)):
        reached = found[f"{name}_model_gflops_per_second"]
        assert reached > 0
        assert found[f"{name}_share_of_matmul"] == pytest.approx(reached / (3 * devices))
    assert found["train_gflops_per_second_with_vae"] > found["train_model_gflops_per_second"]
    assert found["decode_frames_per_second"] > 0
    assert found["sample_seconds_all_steps"] == pytest.approx(2 * found["sample_seconds_per_step"])


@pytest.mark.parametrize(
    "line", ["nothing", "a.py b.py", "train --batch=1", "a.py data", "a.py peers", "step"]
)
def test_what_cannot_be_measured_is_said_in_a_line(line, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(line.split())
    assert ended.value.code == 2
    assert "vjax.bench: error: " in capsys.readouterr().err.splitlines()[-1]


PEERS = peers.Sizes(
    ModelConfig(
        "tiny",
        DiTConfig(
            width=24,
            depth=1,
            heads=2,
            head_dim=12,
            ffn=32,
            in_channels=4,
            out_channels=4,
            text_width=16,
            frequency_dim=16,
        ),
        VAEConfig(base_dim=4, z_dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1),
        TextConfig(vocab=64, width=16, depth=1, heads=2, head_dim=8, ffn=32, max_length=512),
        conditioning="renoise",
    ),
    step=((5, 16, 32),),
    vae=((5, 16, 16),),
    video=(1, 64, 64),
)


def test_peers_give_the_same_results_beside_their_speeds(monkeypatch, capsys):
    for module in ("torch", "diffusers", "transformers"):
        pytest.importorskip(module)
    monkeypatch.setattr(peers, "CPU", PEERS)
    parts = [*peers.PARTS]
    assert bench.main(["peers", *parts, "--runs=1", "--steps=1", "--eager", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = ["step 4 tokens", "encode 5x16x16", "decode 5x16x16", "text 512 tokens"]
    for name in (*names, "video 1x64x64 1 steps"):
        ours, theirs = found[name]["vjax"], found[name]["diffusers"]
        # Videos are of bytes.
        assert theirs["difference"] < (1e-4 if name in names else 2 / 255), name
        assert theirs["ratio"] == pytest.approx(theirs["seconds"] / ours["seconds"])
        assert ours["gflops_per_second"] > 0
        assert found[name]["compiled"] == "not measured: left out"
    assert found["torch"] == sys.modules["torch"].__version__


@pytest.mark.parametrize("missing", ["torch", "diffusers", "transformers"])
def test_missing_peers_are_asked_for(missing, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    assert bench.main(["peers"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("vjax.bench: The peers are not all here (")
    assert "pip install 'vjax[peers]'" in line


def test_ways_take_turns_and_long_ones_fewer(monkeypatch):
    calls, now = [], [0.0]

    def way(name, seconds, result):
        def run():
            calls.append(name)
            now[0] += seconds
            return result

        return rounds.Way(run, np.asarray)

    monkeypatch.setattr(rounds.time, "perf_counter", lambda: now[0])
    ways = {"a": way("a", 10.0, [1.0, 4.0]), "b": way("b", 20.0, [1.0, 3.0])}
    found = rounds.compare(ways, int(20e9), 9, lambda name, run: None)
    assert calls == ["a", "b", *"ab" * 3]
    assert found["a"] == {"seconds": 10, "ratio": 1, "gflops_per_second": 2}
    assert (found["b"]["ratio"], found["b"]["difference"]) == (2, 0.25)
