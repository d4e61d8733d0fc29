"""Eight simulated devices, strict broadcasting, and a kept compilation cache."""

import os
import pathlib

DEVICES_FLAG = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {DEVICES_FLAG}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[1]
CACHE = os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla_tests")
)


def pytest_configure():
    jax.config.update("jax_compilation_cache_dir", CACHE)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    """Gin files name the files they include from the repository's root."""
    monkeypatch.chdir(ROOT)
