"""What every command does before it uses JAX: the compile cache and the allocator."""

import ctypes
import os
import pathlib

import jax

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # from malloc.h


def set_up() -> None:
    """Keeps compiled programs in `~/.cache/vjax`, or where JAX_COMPILATION_CACHE_DIR says.

    Keeps freed memory too, up to 2 GB, where the C library is glibc: XLA on CPU allocates the
    buffers of every step anew, and page faults on them would take a tenth of it.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "vjax" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**28)
