"""One process per run directory, and signals that end it."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from vjax.config import ConfigError
from vjax.training.process import StopSignal, alone_in


def test_a_directory_is_held_by_one_process_until_it_leaves(tmp_path):
    refused = pytest.raises(ConfigError, match=f"Process {os.getpid()} trains in .* already")
    with alone_in(tmp_path), refused, alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


def test_a_process_that_is_killed_lets_go(tmp_path):
    script = f"""if True:
        import os, pathlib, signal
        from vjax.training.process import alone_in
        with alone_in(pathlib.Path({str(tmp_path)!r})):
            print(flush=True)
            signal.pause()
    """
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as other:
        other.stdout.readline()
        with pytest.raises(ConfigError, match=f"Process {other.pid} "), alone_in(tmp_path):
            pass
        other.kill()
    with alone_in(tmp_path):
        pass


@pytest.mark.parametrize(
    ("number", "saved", "status"),
    [(signal.SIGTERM, True, 0), (signal.SIGTERM, False, 143), (signal.SIGINT, True, 130)],
)
def test_a_signal_is_remembered_and_decides_the_status(number, saved, status):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        stop.come(signal.SIGUSR1)  # to another process: too late to matter
        assert (stop.requested, stop.status(saved)) == (True, status)
    assert signal.getsignal(number) == before
    with StopSignal() as stop:
        stop.come(number)
        assert stop.status(saved) == status
        signal.raise_signal(number)  # as Ctrl-C comes to all on a host
        assert stop.status(saved) == status


def test_a_second_interrupt_ends_at_once():
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert stop.requested


def test_a_script_that_starts_a_preempted_run_again_is_told_by_the_status(monkeypatch):
    monkeypatch.setenv("VJAX_PREEMPTED_STATUS", "75")
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert (stop.status(saved=True), stop.status(saved=False)) == (75, 143)
