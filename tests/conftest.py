"""Strict settings for every test, and the fixtures they share."""

import gc
import importlib.metadata
import os
import pathlib
import tempfile

# Two workers on two cores: threads of OpenBLAS that wait in a loop for each other take most of the time of both.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest
from hypothesis import settings

# A silent promotion is how a float32 model becomes float64, or a per-example rule meets a batch axis.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Most of the suite's time is XLA's compilation of small functions, so it is told to hurry: no optimisations that cost
# time, no fusion through MLIR (half of what is left, where jaxlib still has the switch), and nothing compiled twice, in
# either worker or in a process that a test starts. `HAMFLOW_OPTIMIZE=1 pytest` compiles as for users, and so do the
# docs and the examples in `.ci/run`. Each is set here, where jax is imported already, and for the processes to come.
if not os.environ.get("HAMFLOW_OPTIMIZE"):
    if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the workers have that of the process which started them
        cache = tempfile.TemporaryDirectory(prefix="hamflow-tests-")  # gone when this process ends
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
    for name, value in {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": os.environ["JAX_COMPILATION_CACHE_DIR"],
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)

# The same examples in every run, and nothing written beside the tests.
settings.register_profile("hamflow", derandomize=True, database=None, deadline=None, max_examples=50)
settings.load_profile("hamflow")


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Forget what was compiled before a process has as much as Linux lets it have.

    That is 65,530 mapped regions, of which a compiled program takes three; beyond it LLVM ends the process.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_REGIONS:
        jax.clear_caches()
        gc.collect()


_MANY_REGIONS = 25_000


@pytest.fixture
def x64():
    """Run one test in double precision: closed forms are compared at 1e-10."""
    with jax.enable_x64(True):
        yield
