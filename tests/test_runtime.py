"""Where compiled programs are kept, and how many; freed memory."""

import importlib
import os
import pathlib
import socket
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from vjax import runtime, train, validation


@pytest.fixture
def settings(monkeypatch):
    """What `set_up` sets, without setting it; the user's home is nowhere."""

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    found = {}
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    monkeypatch.setattr(pathlib.Path, "home", no_home)
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_programs_lie_in_the_users_cache_up_to_a_size(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runtime.set_up()
    directory = tmp_path / "vjax" / "compiled"
    assert settings["jax_compilation_cache_dir"] == str(directory)
    assert settings["jax_compilation_cache_max_size"] == runtime.CACHE_BYTES > 0
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(pathlib.Path, "home", lambda: tmp_path)
    runtime.set_up()
    assert settings["jax_compilation_cache_dir"] == str(tmp_path / ".cache" / "vjax" / "compiled")


def test_the_users_own_place_is_left_alone(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    runtime.set_up()
    assert "jax_compilation_cache_dir" not in settings
    assert "jax_compilation_cache_max_size" not in settings


def test_without_a_place_nothing_is_kept(settings, monkeypatch, tmp_path):
    runtime.set_up()
    (tmp_path / "file").touch()
    for base in (tmp_path / "file", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(base))
        runtime.set_up()
    assert "jax_compilation_cache_dir" not in settings
    assert not os.path.exists("relative")


def test_programs_of_older_versions_can_be_dropped(settings, monkeypatch, tmp_path):
    from jax._src.lru_cache import LRUCache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = tmp_path / "vjax" / "compiled"
    directory.mkdir(parents=True)
    (directory / "old-cache").write_bytes(b"x" * 100)
    runtime.set_up()
    cache = LRUCache(str(directory), max_size=150)
    cache.put("new", b"y" * 100)
    assert {path.name for path in directory.glob("*-cache")} == {"new-cache"}


def test_only_who_asks_keeps_freed_memory(settings, monkeypatch):
    found = []
    libc = types.SimpleNamespace(mallopt=lambda *setting: found.append(setting))
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: libc)
    runtime.set_up()
    assert found == []
    runtime.set_up(keep_memory=True)
    assert (runtime._MMAP_MAX, 0) in found


# --- What is kept, and who finds it --------------------------------------------------------------

PROGRAM = """
import sys
import jax
from vjax import runtime

runtime.set_up()
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]), cluster_detection_method="deactivate")
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
mesh = jax.make_mesh((2,), ("data",))
zeros = lambda: jax.numpy.zeros((4, 4)) + jax.lax.cumsum(jax.numpy.ones((4, 4)))
jax.jit(zeros, out_shardings=jax.NamedSharding(mesh, jax.P("data")))()
print([sum(event.endswith(name) for event in events) for name in ("use_cache", "cache_hits")])
"""


def test_every_process_finds_the_programs_of_the_last_start(tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[1]),
    }
    for expected in ("[1, 0]", "[1, 1]"):
        with socket.create_server(("localhost", 0)) as server:
            address = f"localhost:{server.getsockname()[1]}"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, address, str(index)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index in range(2)
        ]
        try:
            answers = [process.communicate(timeout=120) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [out.strip() for out, _ in answers] == [expected] * 2, answers


def test_programs_of_two_versions_of_a_compiler_do_not_meet():
    lowered = jax.jit(lambda x: x + 1).lower(1.0)
    options = jax._src.compiler.get_compile_options(num_replicas=1, num_partitions=1)
    module, devices = lowered.compiler_ir(), np.array(jax.devices()[:1])

    def key(version: str) -> str:
        backend = types.SimpleNamespace(platform="tpu", platform_version=version)
        return jax._src.cache_key.get(module, devices, options, backend)

    assert key("libtpu 0.0.41") == key("libtpu 0.0.41") != key("libtpu 0.0.42")


def test_programs_are_kept_from_the_first_array_on(monkeypatch):
    """A config file is a program, which can make arrays."""
    done = []
    monkeypatch.setattr(runtime, "set_up", lambda: done.append("set up"))
    monkeypatch.setattr(validation, "load_config", lambda _: pytest.fail("".join(done) or "early"))
    with pytest.raises(pytest.fail.Exception, match="set up"):
        train.main(["config.py"])


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("sample", ["--prompt", "a red circle"]),
        ("evaluate", ["--count", "1"]),
        ("bench", ["matmul"]),
        ("train", ["configs/world_vae.py"]),
    ],
)
def test_no_device_is_said_in_a_line(module, arguments, tmp_path, monkeypatch, capsys):
    def fails():
        raise RuntimeError("Unable to initialize backend 'tpu': Failed to open libtpu.so")

    where = pathlib.Path(__file__).parents[1]
    arguments = [str(where / a) if a.endswith(".py") else a for a in arguments]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jax, "devices", fails)
    command = importlib.import_module(f"vjax.{module}")
    try:
        status = command.main(arguments)
    except SystemExit as ended:
        status = ended.code
    assert status in (1, 2)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"vjax.{module}: ")
    assert 'There is no device that JAX can use. For a TPU, pip install "vjax[tpu]"' in line
