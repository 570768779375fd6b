"""Frames that are read when they are asked for."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import clips
import numpy as np
import pytest

from vjax import reel as reels
from vjax import video
from vjax.reel import Reel, Spool
from vjax.video import MediaError


@pytest.fixture(params=["memory", "disk"])
def spooled(request, monkeypatch):
    monkeypatch.setattr(reels, "IN_MEMORY", 1 << 30 if request.param == "memory" else 1)
    spool = Spool()
    for frame in clips.ramp(20, 6, 8):
        spool.append(frame)
    return spool.reel()


def test_a_reel_gives_what_an_array_gives(spooled):
    frames = clips.ramp(20, 6, 8)
    assert (spooled.shape, spooled.dtype, len(spooled)) == (frames.shape, frames.dtype, 20)
    for index in (3, -1, slice(2, 7), slice(-3, None), [4, 1, 1], [], (..., 0), ...):
        np.testing.assert_array_equal(spooled[index], frames[index])
    np.testing.assert_array_equal(np.concatenate(list(spooled.blocks())), frames)
    taken = spooled.taken([5, 0, 5]).mapped(lambda some: some[..., :1] + 1)
    np.testing.assert_array_equal(taken, frames[[5, 0, 5], ..., :1] + 1)
    assert taken.shape == (3, 6, 8, 1)
    with pytest.raises(IndexError):
        spooled[20]


def test_nothing_is_read_before_it_is_asked_for():
    asked: list[int] = []

    def read(numbers: np.ndarray) -> np.ndarray:
        asked.extend(numbers.tolist())
        return np.zeros((len(numbers), 2, 2, 3), np.uint8)

    later = Reel((50, 2, 2, 3), np.uint8, read).taken(slice(10, 40)).mapped(lambda some: some)
    asked.clear()
    assert later[2:5].shape == (3, 2, 2, 3)
    assert asked == [12, 13, 14]


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    video.write(tmp_path / "a.mkv", clips.ramp(3), 10)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Spool, "append", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(MediaError, match=rf"in {tmp_path}: No space left.*TMPDIR"):
        video.read(tmp_path / "a.mkv", aside=True)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak of a process.")
def test_a_minute_that_is_given_takes_the_memory_of_four_seconds():
    more = _grown(["extend", "inpaint by a clip", "remix", "blend under a curve"])
    if too_much := [verb for verb, grown in more.items() if grown > 50]:
        more |= _grown(too_much)  # threads overlap as they happen to: what grows does so twice
    assert max(more.values()) < 50, more  # the frames alone are 74


def _grown(verbs: list[str]) -> dict[str, float]:
    """MB that a minute takes above four seconds."""
    program = pathlib.Path(__file__).with_name("minute.py")
    # What threads free goes back, or peaks are what their arenas happen to keep.
    freed = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, str(program), "4", "60", *verbs],
        env={**os.environ, **freed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = {verb: peaks for verb, *peaks in map(json.loads, done.stdout.splitlines())}
    assert list(found) == verbs
    return {verb: long - short for verb, (short, long) in found.items()}
