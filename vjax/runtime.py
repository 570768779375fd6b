"""What every command does before it uses JAX: the compile cache and the allocator."""

import contextlib
import ctypes
import os
import pathlib
import platform

import jax
import numpy as np

from vjax.config import ConfigError

CACHE_BYTES = 4 * 2**30  # compiled programs that have not been used for long go first

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # from malloc.h


def set_up(keep_memory: bool = False) -> None:
    """Keeps compiled programs, up to `CACHE_BYTES`, in `vjax/compiled` of the user's cache.

    That is `$XDG_CACHE_HOME`, or `~/.cache`. JAX_COMPILATION_CACHE_DIR names another place, whose
    size is left alone. Where neither is there or can be written, nothing is kept.

    Args:
        keep_memory: keep freed memory too, up to 2 GB, where the C library is glibc. XLA on CPU
            allocates the buffers of every step anew, and page faults on them take up to a tenth of
            it. Only for processes of a few shapes: between buffers that stay, those of many shapes
            leave holes that the next one does not fit, and the process grows without end.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (cache := _cache_directory()) is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:
            jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    _share_keys()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if keep_memory and mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**28)


def check_devices() -> None:
    """Raises ConfigError where JAX has no device to run on, and says what to do."""
    try:
        jax.devices()
    except RuntimeError as error:
        problem, what = str(error).splitlines()[0], ""
        if "tpu" in problem.lower():
            what = 'For a TPU, pip install "vjax[tpu]"; without one, set JAX_PLATFORMS=cpu. '
        raise ConfigError(
            f"There is no device that JAX can use. {what}It says: {problem}"
        ) from error


def _share_keys() -> None:
    """Lets all processes of a run on CPUs find the programs that process 0 has kept.

    Only process 0 writes them, under a key that holds a fingerprint of the devices. That of TPUs is
    the same on every process and that of CPUs is not; there the kind of CPU takes its place.
    """
    from jax._src import cache_key  # there is no public way

    known = getattr(cache_key, "_hash_accelerator_config", None)
    if known is None or known.__module__ == __name__:
        return

    def hash_devices(hash_obj, accelerators: np.ndarray) -> None:
        devices = list(accelerators.flat)
        if devices[0].platform == "cpu" and len({each.process_index for each in devices}) > 1:
            hash_obj.update(f"{len(devices)} devices {_cpu()}".encode())
        else:
            known(hash_obj, accelerators)

    cache_key._hash_accelerator_config = hash_devices


def _cpu() -> str:
    """What programs for this CPU depend on."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("flags", "features")):
                return line
    return f"{platform.machine()} {platform.processor()}"


def _cache_directory() -> pathlib.Path | None:
    """The directory of compiled programs, ready for use; None where there can be none."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = pathlib.Path(base) if os.path.isabs(base) else pathlib.Path.home() / ".cache"
        directory = home / "vjax" / "compiled"
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            return None
        # JAX drops nothing where one program's time of use is missing: older versions wrote none,
        # and a process may have died in between.
        for program in directory.glob("*-cache"):
            used = program.with_name(program.name.removesuffix("-cache") + "-atime")
            if not used.exists():
                with contextlib.suppress(FileNotFoundError):  # another process dropped it
                    used.write_bytes(program.stat().st_mtime_ns.to_bytes(8, "little"))
    except (OSError, RuntimeError):  # no home, or a file is in the way
        return None
    return directory
