"""The versions of the packages that affect the numbers of a run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import pathlib

import salt_jax

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


def of_code() -> str:
    """Returns a digest of this package's source."""
    root = pathlib.Path(salt_jax.__path__[0])
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
