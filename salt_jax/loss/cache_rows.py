"""A chunk of the loss a few rows at a time, on CPUs.

XLA for CPUs reads whole logits again for each sum over the vocabulary, and writes down
what is summed. A few rows stay in a core's cache meanwhile, and take little memory.

Dimensions: V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from salt_jax.loss.token_chunks import TokenChunks

SHARED_CACHE = 2**25  # Bytes; logits that fit into it are read whole.
OWN_CACHE = 2**21  # Bytes of the logits read at once.


def map_rows(
    chunks: TokenChunks, function: Callable[..., Any], chunk: tuple[Any, ...]
) -> Any:
    """Returns `function(*chunk)`, computed for few rows at a time where that pays.

    Args:
      chunks: The chunks; where devices share a vocabulary, rows stay together, because
        each call would exchange sums.
      function: Computes each row from the same row of its arguments.
      chunk: Trees of arrays whose first dimension is C; the first is logits_CV.
    """
    rows = _rows(chunks, *chunk[0].shape)
    if rows is None:
        return function(*chunk)
    split = lambda x: x.reshape(-1, rows, *x.shape[1:])
    join = lambda x: x.reshape(-1, *x.shape[2:])
    mapped = jax.lax.map(lambda part: function(*part), jax.tree.map(split, chunk))
    return jax.tree.map(join, mapped)


def _rows(chunks: TokenChunks, size_C: int, size_V: int) -> int | None:
    """Returns how many rows to read at once; None: all."""
    if chunks.partitioning.mesh.devices.flat[0].platform != "cpu":
        return None
    if chunks.shards.num_shards > 1 or 4 * size_C * size_V <= SHARED_CACHE:
        return None
    most = OWN_CACHE // (4 * size_V)
    # One row at a time was measured to be slower than all: docs/log.md.
    return next((n for n in range(most, 1, -1) if size_C % n == 0), None)
