"""Paths of the text, tasks and vocabularies that the package contains."""

from __future__ import annotations

import pathlib

from etils import epath

import salt_jax

_PREFIX = "embedded:"


def resolve(path: epath.PathLike) -> epath.Path:
    """Resolves "embedded:..." to a path in the package; returns other paths as given.

    Raises:
      FileNotFoundError: the package has nothing of that name.
    """
    if not str(path).startswith(_PREFIX):
        return epath.Path(path)
    assets = pathlib.Path(salt_jax.__file__).parent / "assets"
    found = assets / str(path).removeprefix(_PREFIX)
    if not found.exists():
        there = sorted(f"{_PREFIX}{entry.name}" for entry in assets.iterdir())
        raise FileNotFoundError(
            f"The package holds nothing at {str(path)!r}; it has {there}."
        )
    return epath.Path(found)
