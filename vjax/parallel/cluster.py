"""The processes of one run: they meet, start JAX together, and make sure that they are one run.

Who has another config or other packages is refused on every host, before the first step. The
connections over which they met stay, for what all must do alike although only one of them can know
it, such as what time it is.
"""

import concurrent.futures
import contextlib
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import queue
import secrets
import selectors
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import jax

from vjax import runtime, validation
from vjax.config import ConfigError, RunConfig
from vjax.parallel.meeting import WAIT, Channel, gather, join
from vjax.training.process import Interrupt, StopSignal

T = TypeVar("T")

_WAIT = 60.0  # seconds, where that is not set
_GRACE = 5.0  # seconds
_POLL = 0.2  # seconds from one look at what goes on to the next
_BEAT = 5.0  # seconds from one sign of life to the next
_SILENT = 60.0  # seconds without one, after which a process is given up
_VALUE, _LOST, _THERE = "value", "lost", "there"  # what processes send
_LATE = 10.0  # seconds until a network file system shows a new file everywhere
_BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Processes:
    """The processes of a run, of which this is number `index`.

    Args:
        channels: to the others in their order, on process 0; to process 0, on the others.
        stop: what a signal to this process is noted in, and one to any other as well.
    """

    def __init__(
        self,
        index: int = 0,
        channels: tuple[Channel, ...] = (),
        stop: StopSignal | None = None,
    ):
        self.index, self._channels, self.stop = index, channels, stop or StopSignal()
        self.together = False  # whether this process ends if another is gone
        self.stopped = False  # whether something may still be at work that nobody waits for
        self._there = set(range(len(channels)))  # of the channels those that are open
        self._values: list[queue.SimpleQueue] = [queue.SimpleQueue() for _ in channels]
        if channels:
            threading.Thread(target=self._mind, daemon=True).start()

    def first(self, value):
        """What process 0 gave, on every process. All wait for each other here, as below."""
        return self._decide(value, lambda values: values[0])

    def least(self, value):
        """The smallest that any process gave."""
        return self._decide(value, min)

    def agree(self, facts: Mapping[str, str]) -> None:
        """Compares what must be the same everywhere.

        Raises:
            ConfigError: on every process, with the names and values of what differs.
        """
        problem = self._decide(dict(facts), _disagreement)
        if problem:
            raise ConfigError(problem)

    def share(self, directory: pathlib.Path) -> None:
        """Makes sure that all processes see the same directory.

        Raises:
            ConfigError: on every process, if one does not.
        """
        if not self._channels:
            return
        token = directory / self.first(f"seen-by-all-{secrets.token_hex(8)}")
        if self.index == 0:
            token.touch()
        self.first(None)
        deadline = time.monotonic() + _LATE
        while not (found := token.exists()) and time.monotonic() < deadline:
            os.listdir(directory)
            time.sleep(0.2)
        everywhere = self.least(found)
        if self.index == 0:
            token.unlink()
        if not everywhere:
            raise ConfigError(
                f"{directory} is not the same directory on all hosts: give a --run_dir on storage "
                "that all of them share."
            )

    def wait(self, work: Callable[[], T]) -> T:
        """What `work` returns, once the work of all is done.

        It is done in a thread, so that a signal is heard, whichever process it comes to and however
        long it takes. What several processes do at once, they all do here or not at all. `work`
        itself may not use this object.

        Raises:
            Interrupt: a signal came to one of them: on all, and the work is left to itself.
            ConfigError: the work of another process failed; says why. `stopped` then tells whether
                some are still at theirs, seconds later.
        """
        done: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        everywhere, failed = False, None
        while not everywhere:
            concurrent.futures.wait([done], _POLL)
            problem, late = "", False
            here = done.done()  # looked at once: what is said belongs together
            if here and (error := done.exception()) is not None:
                lines = str(error).splitlines() or [""]
                problem = f"{type(error).__name__} on process {self.index}: {lines[0]}"
                failed = failed or time.monotonic()
                late = time.monotonic() - failed > _GRACE
            everywhere, number, problem = self._decide(
                [here, self.stop.number or 0, problem, late], _progress
            )
            if number:
                self.stopped = True
                self.stop.number = number  # the same on all
                raise Interrupt
            if problem:
                self.stopped |= not everywhere
                if here:
                    done.result()
                raise ConfigError(problem)
        return done.result()

    def leave(self) -> None:
        """All go on from here together, and may end when they like."""
        self.first(None)
        self.together = False

    def end(self, status: int) -> NoReturn:
        """Ends this process at once, whatever its threads are at; the others first."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self.index == 0:  # JAX kills who outlives process 0
            deadline = time.monotonic() + _GRACE
            if self.together:
                deadline += _GRACE  # they take as much until they give up what they are at
                self.together = False
                self._tell([_LOST, "Process 0 is gone; its own log says why."])
            while self._there and time.monotonic() < deadline:
                time.sleep(0.05)
        os._exit(status)

    def _decide(self, value, choose: Callable[[list], Any]):
        """`choose` of the values of all, in their order; what can be JSON."""
        if not self._channels:
            return choose([value])
        if self.index:
            self._channels[0].send([_VALUE, value])
            return self._receive(0)
        chosen = choose([value, *(self._receive(i) for i in range(len(self._channels)))])
        for channel in self._channels:
            channel.send([_VALUE, chosen])
        return chosen

    def _receive(self, number: int):
        value = self._values[number].get()
        if isinstance(value, ConnectionError):
            self._values[number].put(value)  # it stays gone
            raise value
        return value

    def _mind(self) -> None:
        """Takes in what the others send, says that this process is there, and misses who is not."""
        heard = dict.fromkeys(self._there, time.monotonic())
        said = 0.0
        with selectors.DefaultSelector() as selector:
            for number, channel in enumerate(self._channels):
                selector.register(channel.connection, selectors.EVENT_READ, number)
            while self._there:
                for key, _ in selector.select(_POLL):
                    try:
                        self._take_in(key.data)
                        heard[key.data] = time.monotonic()
                    except Exception as error:  # a thread that ended would leave all unheard
                        selector.unregister(key.fileobj)
                        self._lost(key.data, self._unheard(key.data, error))
                now = time.monotonic()
                for number in [n for n in self._there if now - heard[n] > _SILENT]:
                    who = self._channels[number].who
                    problem = f"{who} has been silent for {_SILENT:g} seconds."
                    self._lost(number, ConnectionError(problem))
                if now - said > _BEAT:
                    said = now
                    self._tell([_THERE, None], wait=False)

    def _take_in(self, number: int) -> None:
        for kind, value in self._channels[number].ready():
            if kind == _VALUE:
                self._values[number].put(value)
            elif kind == _LOST:
                self._lost(number, ConnectionError(value))

    def _unheard(self, number: int, error: Exception) -> ConnectionError:
        if isinstance(error, ConnectionError):
            return error
        return ConnectionError(f"{self._channels[number].who} says what no process of a run does.")

    def _tell(self, notice: list, wait: bool = True) -> None:
        for number in tuple(self._there):
            with contextlib.suppress(ConnectionError):  # it is missed when it is read from
                self._channels[number].send(notice, wait)

    def _lost(self, number: int, error: ConnectionError) -> None:
        self._there.discard(number)
        self._values[number].put(error)
        if not self.together:
            return
        self._tell([_LOST, str(error)])
        time.sleep(_GRACE)  # who fails along with it says so
        if self.together:
            # What they compute together would wait for it for ever, and JAX for minutes.
            print(f"vjax: {error}", file=sys.stderr, flush=True)
            os._exit(1)


_started: Processes | None = None  # once in the life of a process


def start(config: RunConfig | Mapping[str, Any], stop: StopSignal | None = None) -> Processes:
    """Starts JAX together with the other processes of a run, where there are some.

    On Cloud TPU and GKE they are found without help. Elsewhere each gets three variables, named as
    JAX names them: JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. Late ones are waited for, VJAX_START_SECONDS long.

    Args:
        config: what must be the same on all; can be JSON.
        stop: what signals are noted in.

    Raises:
        ConfigError: one is missing or differs (said on all), a variable is malformed, or JAX has no
            device.
        Interrupt: a signal came while they were waited for.
    """
    global _started
    stop = stop or StopSignal()
    if _started is None:
        _started = _meet(*_place(), stop)
    _started.stop, _started.together = stop, bool(_started._channels)
    _started.agree(_facts(config) if _started._channels else {})
    runtime.check_devices()
    return _started


def end(main: Callable[[], int]) -> NoReturn:
    """Ends the program with the status that `main` returns.

    Where it failed and others go on, it ends at once: JAX would wait minutes for them to end too.
    So it does where it was stopped: what it was at, such as compiling, may take as long.
    """
    try:
        status = main()
    except Exception:
        traceback.print_exc()
        status = 1
    if _started is not None and (_started.stopped or (status and _started.together)):
        _started.end(status)
    sys.exit(status)


def _meet(address: str, count: int, index: int, stop: StopSignal) -> Processes:
    if count == 1:
        return Processes()
    seconds = _seconds()
    if index == 0:
        channels = gather(address, count, seconds, stop)
    else:
        channels = (join(address, count, index, seconds, stop),)
    processes = Processes(index, channels, stop)
    processes.together = True
    jax.distributed.initialize(
        address,
        count,
        index,
        cluster_detection_method="deactivate",
        initialization_timeout=max(60, int(seconds)),
    )
    stop.listen()  # JAX has taken SIGTERM for itself
    return processes


def _place() -> tuple[str, int, int]:
    """The address of process 0, how many processes there are, and which this is."""
    given = {name: os.environ.get(name, "") for name in _BY_HAND}
    if given["JAX_NUM_PROCESSES"] == "1":
        return "", 1, 0
    if any(given.values()):
        return _by_hand(**given)
    # JAX's own search, which has no public way in that does not start it at once.
    from jax._src.clusters.cloud_tpu_cluster import GceTpuCluster, GkeTpuCluster

    kinds = (GkeTpuCluster, GceTpuCluster)
    try:
        found = next((kind for kind in kinds if kind.is_env_present()), None)
    except OSError:  # a TPU that is none of Google Cloud
        return "", 1, 0
    try:
        if found is None or (count := found.get_process_count()) == 1:
            return "", 1, 0
        port = os.environ.get("JAX_COORDINATOR_PORT")
        address = found.get_coordinator_address(int(_seconds()), port)
        return address, count, found.get_process_id()
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"The hosts of this slice cannot be told: {error}. Set {', '.join(_BY_HAND)} on each."
        ) from error


def _by_hand(**given: str) -> tuple[str, int, int]:
    missing = [name for name, value in given.items() if not value]
    if missing:
        there = [name for name in given if name not in missing]
        raise ConfigError(
            f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} set, but not "
            f"{' and '.join(missing)}: a run of several processes needs all three on each."
        )
    address = given["JAX_COORDINATOR_ADDRESS"]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(
            f"JAX_COORDINATOR_ADDRESS is {address!r}; it must be HOST:PORT of process 0, such as "
            "10.0.0.1:8482."
        )
    numbers = [given["JAX_NUM_PROCESSES"], given["JAX_PROCESS_ID"]]
    if not all(text.isdecimal() for text in numbers) or int(numbers[1]) >= int(numbers[0]):
        raise ConfigError(
            f"JAX_NUM_PROCESSES is {numbers[0]!r} and JAX_PROCESS_ID {numbers[1]!r}; they must be "
            "a count, and a number from 0 to one less."
        )
    return address, int(numbers[0]), int(numbers[1])


def _seconds() -> float:
    text = os.environ.get(WAIT) or str(_WAIT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 < seconds < 1e6:
        raise ConfigError(f"{WAIT} is {text!r}; it must be a number of seconds.")
    return seconds


def _facts(config: RunConfig | Mapping[str, Any]) -> dict[str, str]:
    """What must be the same on every host: settings, and the code that reads them."""
    facts = {"the version of Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            facts[f"the version of {name}"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[f"the version of {name}"] = "none"
    digest = hashlib.sha256()
    package = pathlib.Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + path.read_bytes())
    facts["the code of vjax"] = digest.hexdigest()[:12]
    settings = dict(config) if isinstance(config, Mapping) else validation.to_dict(config)
    return {**dict(_flat(settings)), **facts}


def _flat(value, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field with its path, as it is written on the command line."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list | tuple) and value:
        items = list(enumerate(value))
    else:
        yield path, json.dumps(value)
        return
    for name, item in items:
        yield from _flat(item, f"{path}.{name}" if path else str(name))


def _progress(states: list[list]) -> list:
    """Of work that all do: whether all have done it, a signal that came, and why one failed.

    What one fails at, all may; only then can they go on together. So that waits a little for all.
    """
    done, numbers, problems, late = zip(*states, strict=True)
    over = all(done) or any(late)
    return [all(done), max(numbers), next(filter(None, problems), "") if over else ""]


def _disagreement(facts: list[dict[str, str]]) -> str:
    """What differs between processes, in a sentence; nothing where they agree."""
    found = []
    for name in dict.fromkeys(name for each in facts for name in each):
        values = [each.get(name, "absent") for each in facts]
        if len(set(values)) > 1:
            other = next(i for i, value in enumerate(values) if value != values[0])
            found.append(
                f"{name} is {values[0]} on process 0 and {values[other]} on process {other}"
            )
    if not found:
        return ""
    more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
    return (
        f"The processes of this run differ: {'; '.join(found[:4])}{more}. Start all with the same "
        "command, files and packages."
    )
