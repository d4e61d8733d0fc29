"""Checks that parameters are finite, where they are read and before they are written.

One number that is not finite makes every output of a model so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class NotFiniteError(ValueError):
    """Parameters have numbers that are not finite."""


def check_finite(tree: Any, where: str) -> None:
    """Checks that all numbers of a tree of arrays are finite, each on its device.

    Args:
      tree: Arrays, on any mesh. All processes must call it.
      where: What has them, for the message: "The export at DIR".

    Raises:
      NotFiniteError: some are not; the message names up to three arrays.
    """
    counted = jax.jit(lambda tree: jax.tree.map(_count, tree))(tree)
    counts = jax.tree_util.tree_leaves_with_path(jax.device_get(counted))
    bad = [
        f"{jax.tree_util.keystr(path, simple=True, separator='.')} ({count:,.0f})"
        for path, count in counts
        if count
    ]
    if bad:
        raise NotFiniteError(_said(where, bad))


def check_finite_piece(piece: np.ndarray, name: str, where: str) -> None:
    """Checks that a piece of the array `name` is finite; `where` as in `check_finite`.

    Raises:
      NotFiniteError: it is not.
    """
    if not np.isfinite(piece).all():
        raise NotFiniteError(_said(where, [name]))


def _count(x: jax.Array) -> jax.Array:
    # In float32, where a count of 10^10 does not overflow.
    return jnp.sum(~jnp.isfinite(x), dtype=jnp.float32)


def _said(where: str, bad: Sequence[str]) -> str:
    more = f" and {len(bad) - 3} more arrays" if len(bad) > 3 else ""
    return (
        f"{where} has numbers that are not finite, in {', '.join(bad[:3])}{more}: use "
        "the parameters of an earlier step, or get the model anew."
    )
