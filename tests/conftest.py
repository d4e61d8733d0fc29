"""Eight simulated devices, strict broadcasting, and little optimized programs."""

import collections
import importlib.metadata
import os
import pathlib
import sys

# PyTorch imports it when a model is first built, which kills a process where XLA has
# compiled; nothing here runs on what it is for.
sys.modules["triton"] = None

FLAGS = "--xla_force_host_platform_device_count=8"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"  # They take most of a compilation.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Machine code that is little optimized takes half as long to compile. Processes that
# tests start inherit it, so that their numbers are equal to the last bit.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Every program is compiled once, whichever process or worker needs it first.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]
CACHE = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla_tests")
)


def pytest_configure():
    jax.config.update("jax_compilation_cache_dir", CACHE)
    jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items):
    """Files with many slow tests come first, so that workers end together."""
    slow = collections.Counter(x.path for x in items if x.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def fully_optimized():
    """Compiles as a user does, for tests of what the compiler made of a program."""
    kept = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", kept)


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    """Gin files name the files they include from the repository's root."""
    monkeypatch.chdir(ROOT)
