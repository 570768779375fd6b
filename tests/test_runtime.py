"""Where compiled programs are kept, and how many; freed memory."""

import os
import pathlib
import types

import jax
import pytest

from vjax import runtime


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
