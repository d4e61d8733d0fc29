"""The versions of the packages that affect the numbers of a run."""

from __future__ import annotations

import importlib.metadata

PACKAGES = ("salt_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def of_packages() -> dict[str, str]:
    """Returns the installed version of each of `PACKAGES`."""
    return {name: of(name) for name in PACKAGES}


def of(name: str) -> str:
    """Returns the installed version of a package, or "not installed"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
