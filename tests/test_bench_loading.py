"""What the benchmark of loading measures: weights of the asked size, kept once in memory."""

import numpy as np
import pytest

from vjax.benchmarks import loading, rounds
from vjax.config import DiTConfig


def test_random_weights_are_written_and_loaded(monkeypatch):
    tiny = DiTConfig(width=256, heads=2, head_dim=128, ffn=1024, depth=1, text_width=256)
    monkeypatch.setattr(loading, "_WIDE", tiny)
    np.ones(2**24)  # what was held before is not what loading takes
    found = loading.load(None, 0.05)
    assert found["load_gigabytes"] == pytest.approx(0.05, rel=0.05)
    assert found["load_share_of_disk"] > 0
    if rounds.host_memory("", lambda: None) is not None:  # else the system does not say
        assert 0.8 < found["load_peak_of_kept"] < 1.6
