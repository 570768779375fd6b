"""Where the time of a run went, over all its starts."""

import json
import types

import pytest

from vjax.training import goodput
from vjax.training.goodput import Goodput


@pytest.fixture
def clock(monkeypatch):
    """A clock that only tests move."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(goodput, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_time_is_counted_by_what_it_went_into_over_all_starts(clock, tmp_path):
    path = tmp_path / "goodput.json"
    first = Goodput(path, began=-5.0)
    first.begin(0)
    clock.now = 5
    first.switch("steps")
    clock.now = 25
    with first.spent("checkpoint"):
        clock.now = 30
        with first.spent("data"):
            clock.now = 31
    first.note(10)
    clock.now = 33
    first.note(11)  # too soon to be written
    assert first.shares()["steps"] == pytest.approx(22 / 38)
    assert str(first) == (
        "of 38 s: steps 57.9%, start-up and compiling 26.3%, waiting for data 2.6%, "
        "checkpoints 13.2%"
    )
    # Killed there, it goes on from step 6: four of ten steps are made again.
    clock.now = 100
    second = Goodput(path, began=99.0)
    second.begin(6)
    assert second.seconds == {
        "steps": 12,
        "lost": 8,
        "start": 10,
        "checkpoint": 5,
        "data": 1,
        "preview": 0,
    }
    second.switch("steps")
    assert second.seconds["start"] == 11


def test_a_file_that_is_broken_or_cannot_be_written_ends_no_run(clock, tmp_path, caplog):
    path = tmp_path / "goodput.json"
    broken = ["", "[1]", '{"step": "x", "seconds": {}}', json.dumps({"seconds": 3}), "[" * 10**5]
    broken += [f'{{"step": {step}, "seconds": {{}}}}' for step in ("Infinity", "1e400", "-1")]
    for number in ("NaN", "-1e9", "1e308", "9" * 400):
        broken.append(f'{{"step": 1, "seconds": {{"steps": {number}}}}}')
    for text in broken:
        path.write_text(text)
        assert set(Goodput(path, 0.0).seconds.values()) == {0.0}
    Goodput(tmp_path / "gone" / "goodput.json", 0.0).note(1, now=True)
    assert "cannot be written" in caplog.text
    Goodput(None, 0.0).note(1, now=True)
