"""What every command does before it uses JAX: the compile cache, and memory settings on CPU."""

import os
import pathlib
import sys

import jax

# Large buffers come from huge pages and go back to the allocator, not to the kernel: page faults
# otherwise take up to half of a step on CPU. glibc reads this at start-up only.
_TUNABLES = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:"
    "glibc.malloc.trim_threshold=34359738368:glibc.malloc.top_pad=268435456"
)


def set_up() -> None:
    """Turns the compile cache on, and restarts this process once with better memory settings."""
    on_cpu = os.environ.get("JAX_PLATFORMS") == "cpu" or jax.default_backend() == "cpu"
    if sys.platform == "linux" and on_cpu and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = _TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "vjax" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
