"""What every command does before it uses JAX: the compile cache, and how memory is kept on CPU."""

import ctypes
import os
import pathlib
import sys

import jax

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h


def set_up() -> None:
    """Turns the compile cache on and keeps freed memory for the next step.

    The cache is in `~/.cache/vjax`, or where JAX_COMPILATION_CACHE_DIR says.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "vjax" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if sys.platform == "linux":
        _keep_memory()


def _keep_memory() -> None:
    """Large buffers go back to the allocator, not to the kernel.

    A step on CPU otherwise spends up to half of its time on page faults: each of its buffers is
    mapped, zeroed by the kernel and unmapped again.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, which does as it likes
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)
    mallopt(_M_TOP_PAD, 256 * 2**20)
