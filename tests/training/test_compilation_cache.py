"""A second process compiles nothing anew; where nothing can be kept a warning says so and all else works."""

import subprocess
import sys

import jax
import pytest

from hamflow.training import use_compilation_cache

SCRIPT = """
import sys
import jax
import jax.numpy as jnp
import jax.monitoring
from hamflow.training import use_compilation_cache

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.jit(lambda x: x + 1)(jnp.ones(3))           # jax has looked for a cache by now, and found none,
use_compilation_cache(sys.argv[1] + "-before")
jax.jit(lambda x: x + 2)(jnp.ones(3))           # or another one
print(use_compilation_cache(sys.argv[1]))
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith("cache_hits") else None)
jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((4, 4))).block_until_ready()
print(len(hits))
"""


def test_a_second_process_compiles_nothing_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    folder, hits = tmp_path / "some" / "cache", []
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
        said, count = ended.stdout.split()
        assert said == str(folder)
        hits.append(int(count))
    assert hits[0] == 0
    assert hits[1] >= 1
    assert any(folder.iterdir())


@pytest.fixture
def no_cache_yet():
    """As if jax had been told of no folder; afterwards all is as before."""
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.mark.usefixtures("no_cache_yet")
def test_the_default_is_the_users_folder_for_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert use_compilation_cache() == tmp_path / "xdg" / "hamflow" / "xla"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "xdg" / "hamflow" / "xla")


@pytest.mark.usefixtures("no_cache_yet")
def test_a_relative_folder_of_the_user_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert use_compilation_cache() == tmp_path / ".cache" / "hamflow" / "xla"


@pytest.mark.usefixtures("no_cache_yet")
def test_what_jax_was_told_before_holds(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "told"))
    assert use_compilation_cache() == tmp_path / "told"
    assert use_compilation_cache(tmp_path / "other") == tmp_path / "other"


@pytest.mark.usefixtures("no_cache_yet")
def test_where_nothing_can_be_written_there_is_a_warning_and_no_cache(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(
        UserWarning, match=r"file/cache cannot be written \(Not a directory\).*JAX_COMPILATION_CACHE_DIR"
    ):
        assert use_compilation_cache(tmp_path / "file" / "cache") is None
    assert jax.config.jax_compilation_cache_dir is None
    assert float(jax.jit(lambda x: 2 * x)(jax.numpy.ones(()))) == 2
