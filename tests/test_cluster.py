"""Several processes as one: who is late or missing, who differs, and a run of two."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import signal
import socket
import threading
import time
import types
from typing import NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
from forked import Forked
from safetensors.numpy import load_file
from test_minutes import Brightness

from vjax import making, validation, video, weights
from vjax import train as trainer
from vjax.arguments import parse
from vjax.config import Bucket, ConfigError, DataConfig, Group, RunConfig, Stage
from vjax.data import loader
from vjax.parallel import cluster, meeting
from vjax.parallel.cluster import Processes
from vjax.rewriting import Rewritten
from vjax.timeline import RequestError
from vjax.training import checkpoint, minutes, start, vae
from vjax.training.checkpoint import Checkpoints
from vjax.training.process import Interrupt, StopSignal

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
        strange = (b"GET / HTTP/1.1\r\n\r\n", b"[0, 2]\n", b"[2, 2]\n", b"[Infinity, 2]\n", b"")
        for greeting in (*strange, b"[" * 10**5 + b"\n", b"5\n", b"[1]\n", b"\xff\n"):
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


def test_a_stranger_that_never_comes_to_its_point_is_dropped(port, monkeypatch):
    monkeypatch.setattr(meeting, "_SILENT", 0.3)
    said = []

    def stranger():
        with socket.create_connection(("localhost", port)) as s, contextlib.suppress(OSError):
            while len(said) < 50:
                s.sendall(b"[")
                said.append("[")
                time.sleep(0.1)

    with socket.create_server(("localhost", port)) as server:
        thread = threading.Thread(target=stranger)
        thread.start()
        there = {}
        assert meeting._welcome(server, there, 2) == ""
        thread.join()
    assert there == {}
    assert len(said) < 50


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


def test_a_signal_to_one_that_waits_for_others_ends_all_that_came(port):
    address = f"localhost:{port}"
    stops = [StopSignal() for _ in range(3)]
    threading.Timer(1, stops[2].come, [signal.SIGTERM]).start()
    found = at_once(
        lambda: meeting.gather(address, 4, 20, stops[0]),
        lambda: meeting.join(address, 4, 1, 20, stops[1]),
        lambda: meeting.join(address, 4, 2, 20, stops[2]),
    )
    assert [type(each) for each in found] == [Interrupt] * 3
    assert [stop.number for stop in stops] == [signal.SIGTERM] * 3
    with pytest.raises(Interrupt):  # process 0 is not even there
        meeting.join(address, 4, 1, 20, stops[0])


# --- Agreeing ------------------------------------------------------------------------------------


def test_what_process_0_knows_all_know(three):
    assert at_once(*(lambda p=p: p.first(10 * p.index + 1.5) for p in three)) == [1.5] * 3
    assert at_once(*(lambda p=p: p.least(10 - p.index) for p in three)) == [8] * 3


def test_work_is_done_when_it_is_done_everywhere(three):
    began = time.monotonic()
    found = at_once(
        *(lambda p=p: p.wait(lambda: time.sleep(p.index / 2) or p.index) for p in three)
    )
    assert found == [0, 1, 2]
    assert time.monotonic() - began > 1


@pytest.mark.parametrize("number", [0, 2])
def test_a_signal_to_one_breaks_off_what_all_wait_for(three, number):
    threading.Timer(0.5, three[number].stop.come, [signal.SIGINT]).start()
    found = at_once(*(lambda p=p: p.wait(threading.Event().wait) for p in three))
    assert [type(each) for each in found] == [Interrupt] * 3
    assert [p.stop.number for p in three] == [signal.SIGINT] * 3


def test_two_signals_at_once_are_one_on_all(three):
    for process, number in zip(three, (0, signal.SIGINT, signal.SIGTERM), strict=True):
        process.stop.number = number or None
    found = at_once(*(lambda p=p: p.wait(lambda: None) for p in three))
    assert [type(each) for each in found] == [Interrupt] * 3
    assert [p.stop.number for p in three] == [signal.SIGTERM] * 3


@pytest.mark.parametrize("line", [b"nonsense\n", b"[" * 10**5 + b"\n", b"5\n"])
def test_who_says_nonsense_is_lost_and_no_thread_with_it(three, line):
    three[1]._channels[0].connection.sendall(line)
    for _ in range(2):
        with pytest.raises(ConnectionError, match=r"Process 1 on .* says what no process of a run"):
            three[0].first(None)
    assert three[0]._there == {1}


def test_work_that_fails_while_it_is_looked_at_is_not_called_done(monkeypatch):
    class Late(concurrent.futures.Future):
        looks = 0

        def done(self):
            self.looks += 1
            return self.looks > 1

    def fail():
        raise OSError("full")

    monkeypatch.setattr(concurrent.futures, "Future", Late)
    said = []
    alone = Processes()
    monkeypatch.setattr(alone, "_decide", lambda value, choose: said.append(value[:3]) or said[-1])
    with pytest.raises(OSError, match="full"):
        alone.wait(fail)
    assert said == [[False, 0, ""], [True, 0, "OSError on process 0: full"]]


def test_who_runs_again_misses_the_others_again(three, monkeypatch):
    monkeypatch.setattr(cluster, "_started", three[0])
    monkeypatch.setattr(cluster, "_facts", lambda config: {})
    stop, seen = StopSignal(), []

    def again():
        seen.append((cluster.start({}, stop).together, three[0].stop is stop))
        three[0].leave()

    def other(process):
        process.agree({})
        process.leave()

    assert at_once(again, *(lambda p=p: other(p) for p in three[1:])) == [None] * 3
    assert seen == [(True, True)]
    assert not three[0].together


def test_why_one_failed_is_said_on_all(three, monkeypatch):
    def work(process):
        if process.index == 1:
            raise OSError(28, "No space left on device")
        threading.Event().wait()

    monkeypatch.setattr(cluster, "_GRACE", 0.1)
    first, own, third = at_once(*(lambda p=p: p.wait(lambda: work(p)) for p in three))
    assert isinstance(own, OSError)
    assert all(process.stopped for process in three)
    for problem in (first, third):
        assert isinstance(problem, ConfigError)
        assert str(problem) == "OSError on process 1: [Errno 28] No space left on device"


def test_what_all_fail_at_leaves_none_at_work(three):
    def work(process):
        time.sleep(process.index / 2)
        raise ValueError("no number")

    found = at_once(*(lambda p=p: p.wait(lambda: work(p)) for p in three))
    assert [type(each) for each in found] == [ValueError] * 3
    assert not any(process.stopped for process in three)


def test_prompts_are_written_by_process_0_for_all_or_for_none(three):
    order = parse(["--prompt", "a red circle", "--upsample"])
    name, plan, _ = making.planned(order)

    def silent():
        raise RequestError("The model at here did not describe what is given.")

    def asked(write):
        for process in three:
            process.together = True
        try:
            return at_once(
                *(lambda p=p: making._rewritten(order, plan, name, write, p) for p in three)
            )
        finally:
            for process in three:
                process.together = False

    told = [Rewritten(f"a red star number {i}", "a red circle", "m at here") for i in range(3)]
    for again, planned in asked(lambda: [told.pop(0)]):
        assert again.requests[0].prompt == planned.script.prompt == "a red star number 0"
        assert again.rewritten[0].stored() == {"of": "a red circle", "by": "m at here"}
    assert len(told) == 2
    first, *others = asked(silent)
    assert isinstance(first, RequestError)
    for problem in others:
        assert str(problem) == f"RequestError on process 0: {first}"
    threading.Timer(0.5, three[2].stop.come, [signal.SIGINT]).start()
    assert [type(each) for each in asked(threading.Event().wait)] == [KeyboardInterrupt] * 3


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


def test_what_one_sets_aside_is_gone_for_all(three, tmp_path):
    run, directory = config(tmp_path, ignore_damaged=True), tmp_path / "checkpoints"
    writer = Checkpoints(directory, run)
    writer.save(4, {"step": np.int32(4)})
    writer.close()
    (directory / "4" / "checksums.json").write_text("[]")
    found = [Checkpoints(directory, run) for _ in three]
    assert at_once(*(lambda c=c, p=p: c.newest(p) for c, p in zip(found, three, strict=True))) == (
        [None] * 3
    )
    # Whether to save is decided by each, and begins with a barrier.
    assert [each.manager.latest_step() for each in found] == [None] * 3
    assert (tmp_path / "damaged-4").is_dir()
    for each in found:
        each.close()


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


# --- Real processes ------------------------------------------------------------------------------


class Shown(Brightness):
    def check(self, bucket, devices):
        pass

    preview = vae.VAETask.preview


def train(faults: dict, *arguments: str) -> NoReturn:
    """One process of a run."""
    start.TASKS["vae"] = Shown
    index = int(os.environ["JAX_PROCESS_ID"])
    time.sleep(faults.get("late", [0] * 9)[index])
    if "shift" in faults:  # a tenth of a second an update
        tenths, shift = itertools.count(), faults["shift"][index]
        clock = types.SimpleNamespace(
            monotonic=lambda: shift + 0.1 * next(tenths), perf_counter=time.perf_counter
        )
        trainer.time = minutes.time = clock
    cluster._SILENT, cluster._BEAT = faults.get("silent", 60), 0.5
    take, checksum, leave = loader.Stream.take, checkpoint._checksum, Processes.leave

    def numbered(clip, bucket, one_thing):  # a clip shows its own number
        shape = (bucket.frames, bucket.height, bucket.width, 3)
        return np.full(shape, clip, np.uint8), "", ""

    def taking(self, update):
        if [index, update.step] == faults.get("raises"):
            raise ValueError("what this host alone has")
        parts = take(self, update)
        for _, arrays in parts:
            shards = [np.asarray(s.data) for s in arrays["video"].addressable_shards]
            clips = {int(clip) for shard in shards for clip in shard[:, 0, 0, 0, 0]}
            print("step", update.step, "took", *sorted(clips), flush=True)
        return parts

    def dying(path):
        print(f"read {path}\n", end="", flush=True)
        if index == 0 and f"/{faults.get('dies in', 'never')}." in str(path):
            os.kill(os.getpid(), signal.SIGKILL)
        return checksum(path)

    def leaving(self):
        time.sleep(faults.get("slow", [0] * 9)[index])
        leave(self)

    loader.make_source = lambda *_, **__: numbered
    loader.Stream.take, checkpoint._checksum, Processes.leave = taking, dying, leaving
    cluster.end(lambda: trainer.main([*arguments]))


def config(directory, **changes) -> RunConfig:
    vae = dataclasses.replace(
        tiny.MODEL.vae, patch_size=4, dim_mult=(1, 1), temporal_downsample=(True,)
    )
    return RunConfig(
        **{
            "name": "run",
            "trains": "vae",
            "model": tiny.model(dit=None, text=None, vae=vae, frames=5),
            "stages": (Stage((Group((BUCKET,)),), steps=6, learning_rate=1e-2, warmup=1),),
            "run_dir": str(directory),
            "log_every": 1,
            "sample_every": 0,
            "checkpoint_every": 0,
            **changes,
        }
    )


def several(run: RunConfig, count: int, port: int, *more, then=None, own=None, **faults):
    """Runs it in processes; returns their statuses and logs. `then` is called meanwhile."""
    directory = pathlib.Path(run.run_dir)
    directory.mkdir(parents=True, exist_ok=True)
    text = f"from vjax import validation, config\n\n\ndef get_config():\n    return validation.from_dict(config.RunConfig, {validation.to_dict(run)!r})\n"  # noqa: E501
    (directory / "config.py").write_text(text)
    environment = {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1"),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(count),
    }
    running = []
    try:
        for i in range(count):
            arguments = (str(directory / "config.py"), *more, *(own or {}).get(i, ()))
            named = {**environment, "JAX_PROCESS_ID": str(i)}
            running.append(Forked(directory, named, train, faults, *arguments))
        if then is not None:
            then(*running)
        statuses = [process.status() for process in running]
    finally:
        for process in running:
            process.kill()
    return statuses, ["".join(process.said) for process in running]


def losses(log: str) -> dict[int, float]:
    return {int(n): float(loss) for n, loss in re.findall(r"step (\d+)  loss (\S+)", log)}


def clips(logs: list[str]) -> dict[int, list[int]]:
    """The numbers of the clips of each step, over all processes."""
    taken: dict[int, set] = {}
    for log in logs:
        for step, numbers in re.findall(r"step (\d+) took (.*)", log):
            taken.setdefault(int(step), set()).update(map(int, numbers.split()))
    return {step: sorted(numbers) for step, numbers in taken.items()}


ORDER = {step: list(range(8 * step, 8 * step + 8)) for step in range(6)}


def final(run: RunConfig) -> dict[str, np.ndarray]:
    """The arrays of a run's last checkpoint, whatever devices they were on."""
    with ocp.StandardCheckpointer() as reader:
        directory = pathlib.Path(run.run_dir) / "run" / "checkpoints" / "6" / "state"
        shapes = reader.metadata(directory).item_metadata.tree
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
        leaves = jax.tree.leaves_with_path(jax.device_get(reader.restore(directory, like)))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("bundle") / "tiny"
    model = config("nowhere").model
    weights.save(directory, tiny.bundle(model), dtype="float32")
    return str(directory)


@pytest.fixture(scope="module")
def unbroken(bundle, tmp_path_factory) -> tuple[dict, dict, dict]:
    """A run of six steps in two processes, of which the second is late, and slow at the end."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    directory = tmp_path_factory.mktemp("unbroken")
    run = config(directory, init=bundle, checkpoint_every=6, sample_every=6)
    statuses, logs = several(run, 2, port, late=[0, 2], slow=[0, 3])
    assert statuses == [0, 0], logs
    assert losses(logs[0]) == losses(logs[1])
    assert len(losses(logs[0])) == 6
    assert clips(logs) == ORDER
    directory /= "run"
    assert len(list((directory / "tensorboard").iterdir())) == 1
    # What both made together is what this process makes alone of what they wrote.
    shown = video.read(directory / "samples" / "0000006.mp4")
    with pytest.MonkeyPatch.context() as patch:
        numbered = functools.partial(np.full, (5, 32, 32, 3), dtype=np.uint8)
        patch.setattr(vae.loader, "make_source", lambda *_, **__: lambda i, *_: [numbered(i)])
        alone, figures = vae.VAETask(run).preview(weights.load(str(directory / "bundle")))
    assert shown.frames.shape == alone.shape
    off = np.abs(shown.frames - alone.astype(float))  # by what coding does to edges
    assert np.median(off) <= 3
    for log in logs:
        (psnr,) = re.findall(r"held-out PSNR (\S+) dB", log)
        assert float(psnr) == pytest.approx(figures["held_out_psnr"], abs=0.05)
    return losses(logs[0]), final(run), load_file(directory / "bundle" / "vae.safetensors")


def test_four_two_and_one_process_train_as_one_in_any_layout(unbroken, bundle, tmp_path, port):
    expected, state, trained = unbroken
    run = config(tmp_path, init=bundle, checkpoint_every=2)
    taken, found = {}, {}
    for count, more in (
        (4, ("--steps=2", "--mesh.fsdp=2")),
        (2, ("--steps=4", "--mesh.context=2")),
        (1, ()),
    ):
        statuses, logs = several(run, count, port, *more)
        assert statuses == [0] * count, logs
        assert all(losses(log) == losses(logs[0]) for log in logs)
        found |= losses(logs[0])
        taken |= clips(logs)
    assert taken == ORDER
    assert found == pytest.approx(expected, rel=1e-3)  # as they are printed
    made = load_file(tmp_path / "run" / "bundle" / "vae.safetensors")
    for one, other in ((final(run), state), (made, trained)):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_allclose(value, other[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_signal_to_one_stops_all_at_the_same_step_and_nothing_is_lost(
    unbroken, bundle, tmp_path, port
):
    def stop(first, second):
        first.await_said("step 2  loss")
        second.signal(signal.SIGTERM)

    run = config(tmp_path, init=bundle, checkpoint_every=100)
    statuses, logs = several(run, 2, port, then=stop)
    assert statuses == [0, 0], logs
    steps = [re.search(r"Stopped at step (\d+); the same command goes on", log)[1] for log in logs]
    assert steps[0] == steps[1] != "6"
    assert os.listdir(tmp_path / "run" / "checkpoints") == [steps[0]]
    statuses, logs = several(run, 2, port)
    assert statuses == [0, 0], logs
    assert f"resuming at step {steps[0]} of 6" in logs[0]
    jax.tree.map(np.testing.assert_array_equal, final(run), unbroken[1])


def test_one_killed_while_it_saves_and_a_damaged_checkpoint_lose_what_came_after(
    unbroken, bundle, tmp_path, port
):
    run = config(tmp_path, init=bundle, checkpoint_every=1)
    statuses, logs = several(run, 2, port, **{"dies in": 4})
    assert statuses[0] == -9
    assert statuses[1] != 0  # by JAX, which kills who has lost process 0
    checkpoints = tmp_path / "run" / "checkpoints"
    largest = max((checkpoints / "3" / "state").rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    statuses, logs = several(run, 2, port)
    assert statuses == [0, 0], logs
    assert "Checkpoint 3 is damaged (state/" in logs[0]
    for log in logs:
        assert "resuming at step 2 of 6" in log
    assert (tmp_path / "run" / "damaged-3").is_dir()
    jax.tree.map(np.testing.assert_array_equal, final(run), unbroken[1])
    assert re.search(r"time of .*steps made again \d", logs[0])
    # Each has read again what it wrote, and at the start no file was read twice.
    for index, log in enumerate(logs):
        assert set(re.findall(r"read \S+/\d\.\S+/ocdbt\.process_(.)/", log)) == {str(index)}
    first, second = (set(re.findall(r"read \S+/checkpoints/2/(\S+)", log)) for log in logs)
    assert first
    assert second
    assert not first & second
    assert not list(tmp_path.glob("run/checkpoints/*/checksums.*.json"))


def test_a_run_by_the_clock_has_one_clock(tmp_path, port):
    data = DataConfig(resident=16)
    run = config(tmp_path, minutes=0.05, data=data)
    statuses, logs = several(run, 2, port, shift=[0, 1000])
    assert statuses == [0, 0], logs
    assert losses(logs[0]) == losses(logs[1])
    assert len(losses(logs[0])) > 9  # in three seconds, less what the end needs
    again = validation.load_config(str(tmp_path / "run" / "repeat.py"))
    assert again.stages[0].steps == len(losses(logs[0]))


def test_one_that_fails_and_one_that_hangs_end_the_others_soon(tmp_path, port):
    statuses, logs = several(config(tmp_path), 2, port, raises=[1, 3])
    assert 0 not in statuses, logs
    assert "ValueError: what this host alone has" in logs[1]
    assert re.search(r"Process 1 on \S+ is gone; its own log says why\.", logs[0])
    assert "/bundle" not in logs[0]

    def hang(first, second, *others):
        first.await_said("step 3  loss")
        second.signal(signal.SIGSTOP)
        assert [process.status(200) for process in (first, *others)] == [1, 1]
        second.kill()

    long = Stage((Group((dataclasses.replace(BUCKET, batch=9),)),), steps=100_000)
    run = config(tmp_path, stages=(long,), name="other")
    _, logs = several(run, 3, port, then=hang, silent=10)
    for log in (logs[0], *logs[2:]):
        assert re.search(r"Process 1 on \S+ has been silent for 10 seconds\.", log)


def test_other_settings_are_refused_before_anything_is_written(tmp_path, port):
    statuses, logs = several(config(tmp_path / "runs"), 2, port, own={1: ["--seed=5"]})
    for status, log in zip(statuses, logs, strict=True):
        assert status == 1
        assert log.splitlines()[-1].startswith(
            "vjax.train: The processes of this run differ: seed is 0 on process 0 and 5 on process"
        )
    assert not (tmp_path / "runs" / "run").exists()


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
