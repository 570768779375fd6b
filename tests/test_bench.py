"""The bench that is interrupted says so and gives the figures that it has."""

import json

import pytest

from vjax import bench, ending


@pytest.mark.parametrize(
    ("ended", "status"), [(KeyboardInterrupt(), 130), (ending.Terminated(), 143)]
)
def test_ctrl_c_ends_without_a_traceback_and_keeps_finished_parts(
    ended, status, monkeypatch, capsys
):
    def data(runs):
        raise ended

    monkeypatch.setattr(bench, "matmul", lambda runs: {"matmul_gflops_per_second": 3.0})
    monkeypatch.setattr(bench, "data", data)
    assert bench.main(["matmul", "data", "--json"]) == status
    out, err = capsys.readouterr()
    assert json.loads(out)["matmul_gflops_per_second"] == 3.0
    assert err == "vjax.bench: interrupted.\n"
