"""Plans of slices that are not there."""

import json
import pathlib

import pytest

from vjax import plan
from vjax.config import ConfigError
from vjax.parallel import slices

CONFIG = str(pathlib.Path(__file__).parent.parent / "configs" / "world_dit.py")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "choose from v5e, v5p, v6e, tpu7x"),
        ("v5e", "A slice of v5e is one such as v5e:4x4"),
        ("v5p:4x4", "A slice of v5p is one such as v5p:2x4x4"),
        ("v5e:0x", "one such as"),
    ],
)
def test_what_is_no_slice_is_answered_with_one(name, message):
    with pytest.raises(ConfigError, match=message):
        slices.parse(name)


def test_what_cannot_be_planned_is_one_line(capsys):
    assert plan.main([CONFIG, "--slice", "v9:2x2"]) == 2
    assert plan.main(["nowhere", "--slice", "v5e:1x1"]) == 2
    assert plan.main([CONFIG, "--slice", "v5e:1x1", "--stepz=1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["vjax.plan"] * 3


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
        assert program["collectives"]["all-gather"] > 0
        assert 0 < sum(program["bytes"].values()) < found["memory_bytes"]
    assert plan.main(["default", "--slice", "v5e:1x1", "--json"]) == 0
    _, steps, _ = json.loads(capsys.readouterr().out)["programs"]
    assert steps["collectives"] == {}
    assert steps["compiled_flops"] < 1.1 * steps["model_flops"]
