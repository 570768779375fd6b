"""What the benchmark of loading measures: weights of the asked size, kept once in memory."""

from vjax.benchmarks import loading
from vjax.config import DiTConfig


def test_random_weights_are_written_and_loaded(tmp_path, monkeypatch):
    tiny = DiTConfig(width=32, heads=2, head_dim=16, ffn=48, depth=1, text_width=16)
    monkeypatch.setattr(loading, "_WIDE", tiny)
    found = loading.load(None, 0.001)
    assert 0.0008 < found["load_gigabytes"] < 0.0012
    assert found["load_share_of_disk"] > 0
    assert found["load_peak_of_kept"] >= 0
