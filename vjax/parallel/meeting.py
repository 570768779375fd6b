"""How the processes of a run meet: all come to the address that JAX will use, and go on together.

`jax.distributed` ends a process without a word when another one is late. Here the late one is
waited for and, where it does not come, named on all that did.
"""

import contextlib
import json
import logging
import socket
import time

from vjax.config import ConfigError

log = logging.getLogger("vjax")

WAIT = "VJAX_START_SECONDS"  # the variable that says how long to wait

_LINE = 2**22  # bytes of a message at most
_SILENT = 5.0  # seconds until a connection that says nothing is dropped


class Channel:
    """A connection that carries JSON, one value a line."""

    def __init__(self, connection: socket.socket, who: str):
        self.connection, self.who = connection, who
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self._lines = connection.makefile("rb")

    def send(self, value) -> None:
        try:
            self.connection.sendall(json.dumps(value).encode() + b"\n")
        except TimeoutError:
            raise
        except OSError as error:
            raise self._gone() from error

    def receive(self):
        try:
            line = self._lines.readline(_LINE)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._gone() from error
        if not line.endswith(b"\n"):
            raise self._gone()
        return json.loads(line)

    def is_closed(self) -> bool:
        """Whether the other side has left."""
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._lines.close()
        self.connection.close()

    def _gone(self) -> ConnectionError:
        return ConnectionError(f"{self.who} is gone; its own log says why.")


def gather(address: str, count: int, seconds: float) -> tuple[Channel, ...]:
    """Waits for all others, as process 0 does, and lets them go on.

    Raises:
        ConfigError: one did not come, on all that did.
    """
    there: dict[int, Channel] = {}
    problem, told = "", False
    began = time.monotonic()
    with _listen(address) as server:
        server.settimeout(0.5)
        while len(there) < count - 1 and not problem:
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
            channel.send(problem)
    if problem:
        for channel in there.values():
            channel.close()
        raise ConfigError(problem)
    return tuple(there[number] for number in sorted(there))


def _welcome(server: socket.socket, there: dict[int, Channel], count: int) -> str:
    """Takes in one process. Returns why the run cannot be, if that shows here."""
    connection, (host, *_) = server.accept()
    connection.settimeout(_SILENT)
    channel = Channel(connection, f"A process on {host}")
    try:
        number, others = map(int, channel.receive())
        if number < 1:
            raise ValueError(number)
    except (OSError, ValueError, TypeError):  # whoever it was, it is none of ours
        channel.close()
        return ""
    connection.settimeout(None)
    channel.who = f"Process {number} on {host}"
    if others != count:
        there[number] = channel
        return f"JAX_NUM_PROCESSES is {count} on process 0 and {others} on process {number}."
    if number in there and not there[number].is_closed():
        channel.send(problem := f"Two processes say that they are process {number}.")
        return problem
    there[number] = channel
    return ""


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


def join(address: str, count: int, index: int, seconds: float) -> Channel:
    """Tells process 0 that this one is there, and waits until it says that all are.

    Raises:
        ConfigError: it did not answer in time, or another process is missing.
    """
    host, _, port = address.rpartition(":")
    deadline, told, reason = time.monotonic() + seconds, False, "no answer"
    while (left := deadline - time.monotonic()) > 0:
        if left < seconds - 10 and not told:
            log.info("waiting for process 0 at %s (%s)", address, reason)
            told = True
        with contextlib.ExitStack() as undo:
            try:
                place = (host.strip("[]"), int(port))
                connection = socket.create_connection(place, timeout=min(_SILENT, left))
                channel = Channel(connection, f"Process 0 at {address}")
                undo.callback(channel.close)
                channel.send([index, count])
                # Process 0 may have begun to wait later than this one.
                connection.settimeout(seconds + 2 * _SILENT)
                problem = channel.receive()
                if not isinstance(problem, str):
                    raise ValueError("something else answers there")
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error).rstrip(".")
                time.sleep(0.3)
                continue
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


def _missing(there: dict[int, Channel], count: int) -> str:
    absent = [str(number) for number in range(1, count) if number not in there]
    more = f" and {len(absent) - 8} more" if len(absent) > 8 else ""
    names = ", ".join(absent[:8]) + more
    return f"{'Process' if len(absent) == 1 else 'Processes'} {names} of {count}"
