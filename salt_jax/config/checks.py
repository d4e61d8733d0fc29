"""Checks of fields that several values share."""

from __future__ import annotations

from typing import Any

from salt_jax.model.quantized import HELD_DTYPES


def check_positive(value: Any, *names: str) -> None:
    """Raises ValueError unless the fields `names` are at least 1."""
    for name in names:
        if getattr(value, name) < 1:
            raise ValueError(f"{name} must be positive, got {getattr(value, name)}.")


def check_held_dtype(value: Any, name: str) -> None:
    """Raises ValueError unless the field `name` is a dtype to hold parameters in."""
    dtype = getattr(value, name)
    if dtype not in HELD_DTYPES:
        raise ValueError(f"{name}={dtype!r} is not one of {', '.join(HELD_DTYPES)}.")
