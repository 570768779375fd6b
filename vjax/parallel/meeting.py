"""How the processes of a run meet: all come to the address that JAX will use, and go on together.

`jax.distributed` ends a process without a word when another one is late. Here the late one is
waited for and, where it does not come, named on all that did.
"""

import contextlib
import json
import logging
import socket
import threading
import time

from vjax.config import ConfigError
from vjax.training.process import Interrupt, StopSignal

log = logging.getLogger("vjax")

WAIT = "VJAX_START_SECONDS"  # the variable that says how long to wait

_LINE = 2**22  # bytes of a message at most
_GREETING = 64  # bytes of the first one, which anybody can send
_SILENT = 5.0  # seconds until a connection that has not greeted is dropped


class Channel:
    """A connection that carries JSON, one value a line."""

    def __init__(self, connection: socket.socket, who: str):
        self.connection, self.who = connection, who
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self._lock = threading.Lock()

    def send(self, value, wait: bool = True) -> None:
        """Sends a value; one that may not `wait` is left out while another thread sends."""
        if self._lock.acquire(blocking=wait):
            try:
                self.connection.sendall(json.dumps(value).encode() + b"\n")
            except TimeoutError:
                raise
            except OSError as error:
                raise self._gone() from error
            finally:
                self._lock.release()

    def receive(self):
        """The next value. One thread alone receives."""
        while b"\n" not in self._rest:
            self._read()
        line, _, self._rest = self._rest.partition(b"\n")
        return self._value(line)

    def greeting(self) -> tuple[int, int]:
        """The number of who has connected, and how many it counts.

        Raises:
            OSError: it is no process of a run, or did not say so in time.
        """
        deadline = time.monotonic() + _SILENT
        while b"\n" not in self._rest:
            self.connection.settimeout(max(deadline - time.monotonic(), 1e-3))
            self._read(most=_GREETING)
        self.connection.settimeout(None)
        match self.receive():
            case [int(number), int(count)] if 1 <= number < count:
                return number, count
        raise self._stranger()

    def ready(self) -> list:
        """All values that have come."""
        try:
            while True:
                self._read(socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except ConnectionError:
            if b"\n" not in self._rest:  # what it said last counts
                raise
        *lines, self._rest = self._rest.split(b"\n")
        return [self._value(line) for line in lines]

    def close(self) -> None:
        self.connection.close()

    def _value(self, line: bytes):
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._stranger() from error

    def _read(self, flags: int = 0, most: int = _LINE) -> None:
        try:
            found = self.connection.recv(2**16, flags)
        except (TimeoutError, BlockingIOError):
            raise
        except OSError as error:
            raise self._gone() from error
        self._rest += found
        if not found or len(self._rest) > most:
            raise self._gone()

    def _stranger(self) -> ConnectionError:
        return ConnectionError(f"{self.who} says what no process of a run does.")

    def _gone(self) -> ConnectionError:
        return ConnectionError(f"{self.who} is gone; its own log says why.")


def gather(
    address: str, count: int, seconds: float, stop: StopSignal | None = None
) -> tuple[Channel, ...]:
    """Waits for all others, as process 0 does, and lets them go on.

    Raises:
        ConfigError: one did not come, on all that did.
        Interrupt: a signal came to one of them, on all that did.
    """
    stop = stop or StopSignal()
    there: dict[int, Channel] = {}
    problem, told = "", False
    began = time.monotonic()
    with _listen(address) as server:
        server.settimeout(0.5)
        while len(there) < count - 1 and not problem and not stop.requested:
            for channel in there.values():  # a signal came to that one
                with contextlib.suppress(ConnectionError):
                    stop.come(*channel.ready())
            waited = time.monotonic() - began
            if waited > seconds:
                problem = (
                    f"{_missing(there, count)} did not come to {address} within {seconds:g} "
                    "seconds. Start the same command there, or see what its log says; "
                    f"{WAIT} waits longer."
                )
            elif waited > min(10, seconds / 2) and not told:
                log.info("%s: waited for at %s", _missing(there, count), address)
                told = True
            with contextlib.suppress(TimeoutError):
                problem = problem or _welcome(server, there, count)
    for channel in there.values():
        with contextlib.suppress(OSError):
            channel.send(stop.number or problem)
    if problem or stop.requested:
        for channel in there.values():
            channel.close()
        if stop.requested:
            raise Interrupt
        raise ConfigError(problem)
    return tuple(there[number] for number in sorted(there))


def _welcome(server: socket.socket, there: dict[int, Channel], count: int) -> str:
    """Takes in one process. Returns why the run cannot be, if that shows here."""
    connection, (host, *_) = server.accept()
    channel = Channel(connection, f"A process on {host}")
    try:
        number, others = channel.greeting()
    except OSError:  # whoever it was, it is none of ours
        channel.close()
        return ""
    channel.who = f"Process {number} on {host}"
    if others != count:
        there[number] = channel
        return f"JAX_NUM_PROCESSES is {count} on process 0 and {others} on process {number}."
    if number in there and not _left(there[number]):
        channel.send(problem := f"Two processes say that they are process {number}.")
        return problem
    there[number] = channel
    return ""


def _left(channel: Channel) -> bool:
    try:
        channel.ready()
    except ConnectionError:
        return True
    return False


def _listen(address: str) -> socket.socket:
    port = int(address.rpartition(":")[2])
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
            )
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise ConfigError(
            f"Process 0 cannot listen at {address} ({error.strerror}): end what uses that port on "
            "this host, or choose another on all."
        ) from error


def join(
    address: str, count: int, index: int, seconds: float, stop: StopSignal | None = None
) -> Channel:
    """Tells process 0 that this one is there, and waits until it says that all are.

    Raises:
        ConfigError: it did not answer in time, or another process is missing.
        Interrupt: a signal came to one of them.
    """
    stop = stop or StopSignal()
    host, _, port = address.rpartition(":")
    deadline, told, reason = time.monotonic() + seconds, False, "no answer"
    while (left := deadline - time.monotonic()) > 0:
        if left < seconds - 10 and not told:
            log.info("waiting for process 0 at %s (%s)", address, reason)
            told = True
        if stop.requested:
            raise Interrupt
        with contextlib.ExitStack() as undo:
            try:
                place = (host.strip("[]"), int(port))
                connection = socket.create_connection(place, timeout=min(_SILENT, left))
                channel = Channel(connection, f"Process 0 at {address}")
                undo.callback(channel.close)
                channel.send([index, count])
                # Process 0 may have begun to wait later than this one.
                problem = _answer(channel, seconds + 2 * _SILENT, stop)
                if not isinstance(problem, str | int):
                    raise ValueError("something else answers there")
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error).rstrip(".")
                time.sleep(0.3)
                continue
            if isinstance(problem, int):
                stop.come(problem)
                raise Interrupt
            if problem:
                raise ConfigError(problem)
            connection.settimeout(None)
            undo.pop_all()
            return channel
    raise ConfigError(
        f"Process 0 of {count} is missing: it did not answer at {address} within {seconds:g} "
        f"seconds ({reason}). Start the same command there, and let its port through between the "
        f"hosts; {WAIT} waits longer."
    )


def _answer(channel: Channel, seconds: float, stop: StopSignal):
    """What process 0 says, once it does. It is told if a signal comes meanwhile."""
    channel.connection.settimeout(0.2)
    deadline = time.monotonic() + seconds
    while True:
        try:
            return channel.receive()
        except TimeoutError:
            if stop.requested:
                channel.send(stop.number)
                raise Interrupt from None
            if time.monotonic() > deadline:
                raise


def _missing(there: dict[int, Channel], count: int) -> str:
    absent = [str(number) for number in range(1, count) if number not in there]
    more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
    names = ", ".join(absent[:8]) + more
    return f"{'Process' if len(absent) == 1 else 'Processes'} {names} of {count}"
