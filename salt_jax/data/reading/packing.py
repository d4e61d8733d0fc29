"""Examples packed into the rows of a batch.

Dimensions: B batch, L length, P examples, F tokens of all examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.reading.objectives import Example


def packed(
    examples: Sequence[Example],
    rows: np.ndarray,
    begin_ids: np.ndarray,
    *,
    shape: tuple[int, int],
    pad_id: int,
    has_prefix: bool,
) -> Batch:
    """Packs `examples` into a batch; each becomes one segment of its row.

    A segment is the example's inputs and then its targets, shifted right by one: it
    starts with the begin id, and the position of the last input predicts the first
    target. Up to that position attention is bidirectional.

    Args:
      examples: Grouped by row; the examples of a row must fit it.
      rows: int64 [P], the row of each example, never decreasing.
      begin_ids: int [P], the first token of each segment.
      shape: (B, L)
      pad_id: The target at padding.
      has_prefix: Whether the batch gets a `prefix_BL`.
    """
    num_inputs = np.array([len(example.inputs) for example in examples], np.int64)
    num_targets = np.array([len(example.targets) for example in examples], np.int64)
    lengths = num_inputs + num_targets
    example_F = np.repeat(np.arange(len(examples)), lengths)
    positions_F = np.arange(len(example_F)) - (np.cumsum(lengths) - lengths)[example_F]
    inputs_F = num_inputs[example_F]
    nothing = np.zeros(0, np.int32)
    targets_F = np.concatenate([nothing, *(part for x in examples for part in x)])
    tokens_F = np.where(positions_F == 0, begin_ids[example_F], np.roll(targets_F, 1))
    segments = np.arange(len(rows)) - np.searchsorted(rows, rows) + 1
    room = np.bincount(rows, weights=lengths, minlength=shape[0])
    (places,) = np.nonzero((np.arange(shape[1]) < room[:, None]).ravel())

    def in_rows(x_F: np.ndarray, dtype: Any, padding: int = 0) -> Any:
        x_BL = np.full(shape, padding, dtype)
        x_BL.ravel()[places] = x_F
        return x_BL

    is_prefix_F = (positions_F <= inputs_F) & (inputs_F > 0)
    return Batch(
        tokens_BL=in_rows(tokens_F, np.int32),
        targets_BL=in_rows(targets_F, np.int32, pad_id),
        weights_BL=in_rows(positions_F >= inputs_F, np.float32),
        segments_BL=in_rows(segments[example_F], np.int32),
        positions_BL=in_rows(positions_F, np.int32),
        prefix_BL=in_rows(is_prefix_F, np.bool_) if has_prefix else None,
    )
