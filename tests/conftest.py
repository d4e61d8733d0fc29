"""Test settings: eight simulated devices, strict broadcasting and fast compilation."""

import collections
import importlib.metadata
import os
import pathlib
import signal
import sys

# PyTorch imports Triton with its first model, which crashes a process in which XLA has
# compiled. No test needs Triton.
sys.modules["triton"] = None

FLAGS = "--xla_force_host_platform_device_count=8"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"  # Most of the compile time.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Halves the compile time. Subprocesses of tests inherit it, so that their results are
# equal to the last bit.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Caches every program, so that each is compiled once for all processes.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from salt_jax.files import buckets
from tests import object_store

buckets.configure()

ROOT = pathlib.Path(__file__).parents[1]
CACHE = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla_tests")
)


def pytest_configure():
    # A shell ignores them in what it runs in the background (nohup), and processes
    # inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    jax.config.update("jax_compilation_cache_dir", CACHE)
    jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items):
    """Sorts files by their number of slow tests, so that workers end together."""
    slow = collections.Counter(x.path for x in items if x.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def fully_optimized():
    """Enables the default optimizations, for tests of compiled programs."""
    kept = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", kept)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with what the runs of `tests.runs` read."""
    from tests import runs  # Slow to import: it reaches all that a run does.

    folder = tmp_path_factory.mktemp("files")
    runs.make_files(folder)
    return folder


@pytest.fixture(scope="session")
def bucket():
    """The URL of a bucket, on a server that runs while tests do."""
    with object_store.serving() as variables:
        os.environ.update(variables)
        yield object_store.BUCKET


@pytest.fixture
def without_cache():
    """Disables the cache of programs, from which none for absent chips can be read."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    """Runs tests in the repository root, to which `include` paths are relative."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(autouse=True)
def _own_environment():
    """Takes back the variables that a test sets: `compile` sets those of a TPU host.

    A later test in the same process would read that GKE had started it.
    """
    kept = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(kept)
