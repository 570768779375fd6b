"""Ways of doing the same thing, in turns, since a machine is not equally fast at all times."""

import ctypes
import gc
import pathlib
import re
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

LONGEST = 60  # seconds of turns, after three of them
FEWEST = 3


class Way(NamedTuple):
    """One way: `run` returns when all is done; `result` makes of what it returns an array."""

    run: Callable[[], object]
    result: Callable[[object], np.ndarray]


def compare(
    ways: Mapping[str, Way], flops: int, runs: int, memory: Callable[[str, Callable], float | None]
) -> dict[str, dict[str, float]]:
    """The figures of each way, beside those of the first, and how far its result lies from that.

    Args:
        flops: that the model has, whoever computes it.
        runs: turns, of which the median counts; fewer where they take more than a minute.
        memory: gigabytes at the peak of a call, beyond what was held before, by the way's name.
    """
    results, peaks = {}, {}
    for name, way in ways.items():
        results[name] = np.asarray(way.result(way.run()), np.float32)  # and compiles
        peaks[name] = memory(name, way.run)
    took: dict[str, list[float]] = {name: [] for name in ways}
    began = time.perf_counter()
    for turn in range(runs):
        if turn >= FEWEST and time.perf_counter() - began > LONGEST:
            break
        for name, way in ways.items():
            before = time.perf_counter()
            way.run()
            took[name].append(time.perf_counter() - before)
    first = next(iter(ways))
    found = {}
    for name in ways:
        seconds = float(np.median(took[name]))
        found[name] = {
            "seconds": seconds,
            "ratio": seconds / float(np.median(took[first])),
            "gflops_per_second": flops / seconds / 1e9,
        }
        if peaks[name] is not None:
            found[name]["peak_gigabytes"] = peaks[name]
        if name != first:
            found[name]["difference"] = _difference(results[name], results[first])
    return found


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest, by the largest number of the second."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def host_memory(name: str, call: Callable[[], object]) -> float | None:
    """Gigabytes of this process at the peak of a call beyond those before it; None: not known."""
    peak, status = pathlib.Path("/proc/self/clear_refs"), pathlib.Path("/proc/self/status")
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what the C library keeps would hide a part
        peak.write_text("5")  # from here on
    except (OSError, AttributeError):  # not Linux, or another C library
        return None

    def read(field: str) -> int:
        return int(re.search(rf"^{field}:\s+(\d+) kB", status.read_text(), re.M)[1])

    held = read("VmRSS")
    call()
    return (read("VmHWM") - held) / 2**20


def device_memory(name: str, call: Callable[[], object]) -> float | None:
    """The same of a GPU; None where JAX held more at a time before, which it does not forget."""
    if name == "vjax":
        (device,) = jax.local_devices()[:1]
        call()
        held, before = (device.memory_stats()[k] for k in ("bytes_in_use", "peak_bytes_in_use"))
        call()
        peak = device.memory_stats()["peak_bytes_in_use"]
        return (peak - held) / 2**30 if peak > before else None
    import torch

    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - held) / 2**30
