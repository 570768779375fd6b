"""What every test stands on: eight CPU devices, no rank promotion, and checked annotations."""

import atexit
import importlib.metadata
import os
import pathlib
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests spend their time on compiling small programs, not on running them: LLVM's passes are left
# out, and where jaxlib has two ways to write loops, the one that compiles faster. A later jaxlib
# has the other alone, so that the tests as a whole see both.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_wanted = ["xla_force_host_platform_device_count=8"]
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _wanted.append("xla_cpu_use_fusion_emitters=false")
_flags = os.environ.get("XLA_FLAGS", "").split()
_flags += [f"--{flag}" for flag in _wanted if flag.partition("=")[0] not in " ".join(_flags)]
os.environ["XLA_FLAGS"] = " ".join(_flags)

# One compile cache per run, shared by its worker processes, which inherit the variable.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.mkdtemp(prefix="vjax-test-cache-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import jax  # noqa: E402
import pytest  # noqa: E402
from beartype import BeartypeConf, beartype  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

# Shapes and types of everything in vjax are checked at each call, from its first import on. As
# type checkers do, `float` takes an int.
typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("vjax", f"{__name__}.typechecked")

MAPS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True, scope="module")
def few_maps():
    """Each kept program has some maps of memory, of which Linux gives a process 65,530."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > 10_000:
        jax.clear_caches()


@pytest.fixture
def optimized():
    """Programs compiled as users run them."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()
