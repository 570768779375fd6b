"""Figures that cannot be written do not end or hold up a run."""

import logging
import struct

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event

from vjax.training.figures import Figures


def test_figures_are_what_tensorboard_reads(tmp_path):
    figures = Figures(tmp_path / "here")
    for step in range(3):
        figures.write({"loss": 0.5 + step, "rate": 1.0}, step)
    figures.close()
    (file,) = (tmp_path / "here").glob("events.out.tfevents.*")
    data, events = file.read_bytes(), []
    while data:  # length, checksum, event, checksum
        (length,) = struct.unpack("Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    found = [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in events[1:]]
    assert found == [(step, {"loss": 0.5 + step, "rate": 1.0}) for step in range(3)]


@pytest.mark.parametrize("method", ["write_event", "flush", "close"])
def test_a_full_disk_is_told_once_and_the_run_goes_on(method, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    figures = Figures(tmp_path)
    monkeypatch.setattr(EventsWriter, method, full)
    with caplog.at_level(logging.WARNING, "vjax"):
        for step in range(30):
            figures.write({"loss": 1.0}, step)
        figures.close()
    (said,) = caplog.messages
    assert "Figures for TensorBoard are no longer written: [Errno 28] No space left" in said


def test_a_place_where_nothing_can_be_written_does_not_end_a_run(tmp_path, caplog):
    (tmp_path / "file").touch()
    figures = Figures(tmp_path / "file")
    figures.write({"loss": 1.0}, 0)
    figures.close()
    assert "no longer written" in caplog.text
