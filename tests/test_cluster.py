"""Several processes as one: who is late or missing, who differs, and a run of two."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from vjax import train as trainer
from vjax import validation
from vjax.config import Bucket, ConfigError, DataConfig, Group, RunConfig, Stage
from vjax.parallel import cluster, meeting
from vjax.parallel import mesh as meshes
from vjax.parallel.cluster import Processes

TESTS = pathlib.Path(__file__).parent
BUCKET = Bucket(frames=5, height=32, width=32, batch=8)


@pytest.fixture
def port():
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]


def at_once(*calls):
    """What each call returned or raised, all of them at work together."""
    with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        concurrent.futures.wait(futures)
    return [future.exception() or future.result() for future in futures]


@pytest.fixture
def three(port):
    """Three processes that have met."""
    address = f"localhost:{port}"
    channels, *others = at_once(
        lambda: meeting.gather(address, 3, 20),
        lambda: meeting.join(address, 3, 1, 20),
        lambda: meeting.join(address, 3, 2, 20),
    )
    yield [Processes(0, channels), *(Processes(i, (c,)) for i, c in enumerate(others, 1))]
    for channel in (*channels, *others):
        channel.close()


# --- Meeting -------------------------------------------------------------------------------------


def test_late_ones_are_waited_for_and_strangers_are_not_counted(port):
    address = f"localhost:{port}"

    def stranger():
        time.sleep(0.5)
        for greeting in (b"GET / HTTP/1.1\r\n\r\n", b"[0, 3]\n", b""):
            with contextlib.suppress(OSError), socket.create_connection(("localhost", port)) as s:
                s.sendall(greeting)

    def late():
        time.sleep(1.5)
        return meeting.join(address, 2, 1, 20)

    channels, _, channel = at_once(lambda: meeting.gather(address, 2, 20), stranger, late)
    channel.send("here")
    assert [found.receive() for found in channels] == ["here"]
    channel.close()
    with pytest.raises(ConnectionError, match=r"Process 1 on .* is gone; its own log says why"):
        channels[0].receive()


def test_who_does_not_come_is_named_on_all_that_did(port):
    address = f"localhost:{port}"
    problems = at_once(
        lambda: meeting.gather(address, 4, 1), lambda: meeting.join(address, 4, 2, 20)
    )
    for problem in problems:
        assert isinstance(problem, ConfigError)
        said = f"Processes 1, 3 of 4 did not come to {address} within 1 seconds"
        assert str(problem).startswith(said)


def test_a_process_0_that_does_not_answer_is_named_with_its_address(port):
    address = f"localhost:{port}"
    with pytest.raises(ConfigError, match=rf"Process 0 of 2 is missing.* at {address} within 0.5 "):
        meeting.join(address, 2, 1, 0.5)
    with socket.create_server(("localhost", port)):  # takes a connection and says nothing
        refused = pytest.raises(ConfigError, match="cannot listen at")
        with refused:
            meeting.gather(address, 2, 0.5)


@pytest.mark.parametrize(
    ("others", "problem"),
    [
        ([(1, 3), (1, 3)], "Two processes say that they are process 1"),
        ([(1, 2)], "JAX_NUM_PROCESSES is 3 on process 0 and 2 on process 1"),
    ],
)
def test_processes_that_count_differently_are_refused(port, others, problem):
    address = f"localhost:{port}"
    joins = [
        lambda index=index, count=count: meeting.join(address, count, index, 20)
        for index, count in others
    ]
    for found in at_once(lambda: meeting.gather(address, 3, 20), *joins):
        assert isinstance(found, ConfigError)
        assert problem in str(found)


@pytest.mark.parametrize(
    ("address", "count", "index", "problem"),
    [
        ("", "2", "", "JAX_NUM_PROCESSES is set, but not JAX_COORDINATOR_ADDRESS and JAX_PROCESS_"),
        ("host:1", "", "0", "are set, but not JAX_NUM_PROCESSES: a run of several processes needs"),
        ("10.0.0.1", "2", "1", "'10.0.0.1'; it must be HOST:PORT of process 0"),
        ("host:99999", "2", "1", "'host:99999'; it must be HOST:PORT of process 0"),
        ("host:1", "two", "1", "JAX_NUM_PROCESSES is 'two' and JAX_PROCESS_ID '1'; they must be a"),
        ("host:1", "2", "2", "JAX_PROCESS_ID '2'; they must be a count, and a number from 0 to"),
        ("host:1", "2", "-1", "JAX_PROCESS_ID '-1'; they must be a count"),
        ("host:1", "2", "1", "VJAX_START_SECONDS is 'soon'; it must be a number of seconds"),
    ],
)
def test_variables_that_are_missing_or_malformed_are_told(
    monkeypatch, address, count, index, problem
):
    monkeypatch.setattr(cluster, "_started", None)
    for name, value in zip(cluster._BY_HAND, (address, count, index), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VJAX_START_SECONDS", "soon")
    with pytest.raises(ConfigError, match=re.escape(problem)):
        cluster.start(config("nowhere"))


def test_a_single_process_pays_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster, "_started", None)
    for name in ("gather", "join", "_facts"):
        monkeypatch.setattr(cluster, name, lambda *_, name=name: pytest.fail(f"{name} was called"))
    alone = cluster.start(config(tmp_path))
    assert (alone.index, alone.first("mine"), alone.least(3)) == (0, "mine", 3)
    alone.agree({"seed": "1"})
    alone.share(tmp_path / "nowhere")
    assert not jax.distributed.is_initialized()


def test_hosts_of_a_slice_find_each_other(monkeypatch):
    from jax._src.clusters import cloud_tpu_cluster

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,other")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    for name, value in {"COORDINATOR_ADDRESS": "", "NUM_SLICES": "2", "SLICE_ID": "1"}.items():
        monkeypatch.setenv(f"MEGASCALE_{name}", value)
    assert cluster._place() == ("localhost:8482", 4, 3)
    monkeypatch.setenv("TPU_WORKER_ID", "one")
    with pytest.raises(ConfigError, match="The hosts of this slice cannot be told"):
        cluster._place()


# --- Agreeing ------------------------------------------------------------------------------------


def test_what_process_0_knows_all_know(three):
    assert at_once(*(lambda p=p: p.first(10 * p.index + 1.5) for p in three)) == [1.5] * 3
    assert at_once(*(lambda p=p: p.least(10 - p.index) for p in three)) == [8] * 3


def test_what_differs_is_named_everywhere(three):
    one = config("runs")
    other = validation.override(one, ["--stages.0.groups.0.buckets.0.batch=16", "--seed=1"])
    facts = [cluster._facts(one), cluster._facts(one), cluster._facts(other)]
    assert at_once(*(lambda p=p: p.agree(facts[0]) for p in three)) == [None] * 3
    facts[2]["the version of jax"] = "0.1"
    for problem in at_once(*(lambda p=p: p.agree(facts[p.index]) for p in three)):
        assert isinstance(problem, ConfigError)
        assert "stages.0.groups.0.buckets.0.batch is 8 on process 0 and 16 on process 2" in str(
            problem
        )
        assert "seed is 0 on process 0 and 1 on process 2" in str(problem)
        assert f"the version of jax is {jax.__version__} on process 0 and 0.1" in str(problem)


def test_a_directory_that_is_not_shared_is_refused_everywhere(three, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_LATE", 0.1)
    places = [tmp_path / name for name in ("shared", "shared", "own")]
    for place in places:
        place.mkdir(exist_ok=True)
    assert at_once(*(lambda p=p: p.share(places[0]) for p in three)) == [None] * 3
    for problem in at_once(*(lambda p=p: p.share(places[p.index]) for p in three)):
        assert isinstance(problem, ConfigError)
        assert "is not the same directory on all hosts" in str(problem)
    assert not any(any(place.iterdir()) for place in places)


# --- Two processes -------------------------------------------------------------------------------

PROGRAM = """
import itertools, os, sys, time, types
import jax, jax.numpy as jnp
from test_minutes import Brightness
from vjax import train
from vjax.data.loader import Stream
from vjax.parallel import cluster
from vjax.training import minutes, start

class Shown(Brightness):
    def preview(self, bundle):
        bias = bundle.params["vae"]["encoder"]["conv_in"]["bias"]
        return None, {"bias": float(jax.jit(jnp.mean)(bias))}  # on process 0 alone

start.TASKS["vae"] = Shown
time.sleep(float(sys.argv[1]))
tenths, shift = itertools.count(), float(sys.argv[2])  # a tenth of a second an update
clock = types.SimpleNamespace(
    monotonic=lambda: shift + 0.1 * next(tenths), perf_counter=time.perf_counter
)
train.time = minutes.time = clock
take = Stream.take

def fails(self, update):
    if jax.process_index() == 1 and update.step == int(os.environ.get("FAIL", -1)):
        raise ValueError("what this host alone has")
    return take(self, update)

Stream.take = fails
cluster.end(lambda: train.main(sys.argv[3:]))
"""


def config(directory, **changes) -> RunConfig:
    vae = dataclasses.replace(
        tiny.MODEL.vae, patch_size=4, dim_mult=(1, 1), temporal_downsample=(True,)
    )
    return RunConfig(
        **{
            "name": "run",
            "trains": "vae",
            "model": tiny.model(dit=None, text=None, vae=vae, frames=5),
            "stages": (Stage((Group((BUCKET,)),), steps=2, learning_rate=1e-2, warmup=1),),
            "run_dir": str(directory),
            "log_every": 1,
            "sample_every": 2,
            "checkpoint_every": 0,
            **changes,
        }
    )


def two(tmp_path, port, run: RunConfig, late=(0, 0), shift=(0, 0), more=((), ()), then=None):
    """Runs it in two processes; returns their statuses and logs. `then` is called meanwhile."""
    text = f"from vjax import validation, config\n\n\ndef get_config():\n    return validation.from_dict(config.RunConfig, {validation.to_dict(run)!r})\n"  # noqa: E501
    (tmp_path / "config.py").write_text(text)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS.parent}:{TESTS}",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", PROGRAM, str(late[i]), str(shift[i])),
                *(str(tmp_path / "config.py"), *more[i]),
            ],
            env={**environment, "JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    try:
        if then is not None:
            then(*running)
        logs = [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], logs


def test_two_processes_train_as_one(tmp_path, port, monkeypatch, caplog):
    run = config(tmp_path / "two", checkpoint_every=2)
    statuses, logs = two(tmp_path, port, run, late=(0, 2))
    assert statuses == [0, 0], logs
    from test_minutes import Brightness

    from vjax.training import start

    monkeypatch.setitem(start.TASKS, "vae", Brightness)
    on_two = functools.partial(meshes.make_mesh, devices=jax.devices()[:2])
    monkeypatch.setattr(meshes, "make_mesh", on_two)
    caplog.set_level("INFO", "vjax")
    trainer.train(config(tmp_path / "one", checkpoint_every=2))
    losses = re.findall(r"step \d  loss \S+  gradient_norm \S+", caplog.text)
    assert len(losses) == 2
    for log in logs:
        assert re.findall(r"step \d  loss \S+  gradient_norm \S+", log) == losses
    one, other = (
        load_file(tmp_path / name / "run" / "bundle" / "vae.safetensors") for name in ("one", "two")
    )
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-5, atol=1e-7)
    assert len(list((tmp_path / "two" / "run" / "tensorboard").iterdir())) == 1


def test_a_run_by_the_clock_has_one_clock(tmp_path, port):
    data = DataConfig(resident=16)
    run = config(tmp_path, minutes=0.05, data=data, sample_every=0)
    statuses, logs = two(tmp_path, port, run, shift=(0, 1000))
    assert statuses == [0, 0], logs
    steps = [re.findall(r"step (\d+)  loss (\S+)", log) for log in logs]
    assert steps[0] == steps[1]
    assert len(steps[0]) == 15  # in three seconds, less what the end needs
    again = validation.load_config(str(tmp_path / "run" / "repeat.py"))
    assert again.stages[0].steps == len(steps[0])


def test_a_signal_to_one_stops_all_at_the_same_step(tmp_path, port):
    def stop(first, second):
        while not first.stdout.readline().startswith("step 3 "):
            assert first.poll() is None
        second.send_signal(signal.SIGTERM)  # mostly while it waits for the other

    (stage,) = config("nowhere").stages
    stages = (dataclasses.replace(stage, steps=100_000),)
    run = config(tmp_path, stages=stages, sample_every=0, checkpoint_every=100_000, log_every=3)
    statuses, logs = two(tmp_path, port, run, then=stop)
    assert statuses == [0, 0], logs
    steps = [re.search(r"Stopped at step (\d+); the same command goes on", log)[1] for log in logs]
    assert steps[0] == steps[1]
    assert (tmp_path / "run" / "checkpoints" / steps[0] / "state").is_dir()


def test_one_that_fails_ends_the_others_soon(tmp_path, port, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    began = time.monotonic()
    statuses, logs = two(tmp_path, port, config(tmp_path))
    assert 0 not in statuses, logs
    assert "ValueError: what this host alone has" in logs[1]
    assert "/bundle" not in logs[0]
    assert time.monotonic() - began < 280  # JAX's own way takes that and 300 more


def test_other_settings_are_refused_before_anything_is_written(tmp_path, port):
    statuses, logs = two(tmp_path, port, config(tmp_path / "runs"), more=((), ("--seed=5",)))
    for status, log in zip(statuses, logs, strict=True):
        assert status == 1
        assert log.splitlines()[-1].startswith(
            "vjax.train: The processes of this run differ: seed is 0 on process 0 and 5 on process"
        )
    assert not (tmp_path / "runs").exists()


def test_a_process_that_never_starts_ends_the_other_in_a_sentence(
    tmp_path, port, monkeypatch, capsys
):
    monkeypatch.setattr(cluster, "_started", None)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", f"localhost:{port}")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    monkeypatch.setenv("VJAX_START_SECONDS", "0.5")
    assert trainer.main([str(TESTS.parent / "configs" / "world_vae.py")]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"vjax.train: Process 1 of 2 did not come to localhost:{port} within")
    assert not jax.distributed.is_initialized()
