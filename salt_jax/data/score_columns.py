"""From what the scorer thinks of each token to what is said of each sequence.

Dimensions: N sequences, L length.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def salt_scores(
    ce_NL: np.ndarray,
    rank_NL: np.ndarray,
    weights_NL: np.ndarray,
    ks: Sequence[int] = (10,),
) -> dict[str, np.ndarray]:
    """Returns the columns of scores for sequences that the scorer has read.

    A position is learnable at k when fewer than k tokens are likelier than its target.
    SALT's score is the median over positions of 1[learnable] * cross-entropy
    (arXiv 2410.18779, Eq. 10), where a position that is not learnable is a zero, or is
    dropped; `column_definitions` says which column is which.

    Args:
      ce_NL: The scorer's cross-entropy of each target, in nats.
      rank_NL: How many tokens the scorer finds likelier than the target.
      weights_NL: Positions count where this is above 0.
      ks: How near the top a target must be; one set of columns for each.

    Returns:
      float32 [N] by column. Over no position at all, a score is 0.
    """
    ce_NL = np.asarray(ce_NL, np.float32)
    is_counted_NL = np.asarray(weights_NL) > 0
    columns = {"mean_loss": _mean(ce_NL, is_counted_NL)}
    for k in ks:
        is_learnable_NL = is_counted_NL & (np.asarray(rank_NL) < k)
        with_zeros_NL = np.where(is_learnable_NL, ce_NL, np.float32(0))
        columns |= {
            f"median_k{k}_zeros": _median(with_zeros_NL, is_counted_NL),
            f"median_k{k}_dropped": _median(ce_NL, is_learnable_NL),
            f"mean_k{k}_zeros": _mean(with_zeros_NL, is_counted_NL),
            f"mean_k{k}_dropped": _mean(ce_NL, is_learnable_NL),
        }
    return columns


def column_definitions(ks: Sequence[int]) -> dict[str, str]:
    """Returns what each column of `salt_scores` means."""
    definitions = {"mean_loss": "mean over targets of the scorer's cross-entropy"}
    for k in ks:
        for reducer in ("median", "mean"):
            definitions |= {
                f"{reducer}_k{k}_zeros": f"{reducer} over targets of the scorer's "
                f"cross-entropy, or 0 where the target is not in its top {k}",
                f"{reducer}_k{k}_dropped": f"{reducer} of the scorer's cross-entropy "
                f"over the targets that are in its top {k}; 0 if none is",
            }
    return definitions


def _mean(values_NL: np.ndarray, is_counted_NL: np.ndarray) -> np.ndarray:
    totals = np.sum(values_NL, axis=1, where=is_counted_NL, dtype=np.float64)
    return (totals / np.maximum(is_counted_NL.sum(axis=1), 1)).astype(np.float32)


def _median(values_NL: np.ndarray, is_counted_NL: np.ndarray) -> np.ndarray:
    """Returns the median of each row; of an even number, the mean of the middle two."""
    values_NL = np.sort(np.where(is_counted_NL, values_NL, np.float32(np.inf)), axis=1)
    counts = is_counted_NL.sum(axis=1)[:, None]
    middle = np.concatenate([np.maximum(counts - 1, 0) // 2, counts // 2], axis=1)
    middle = np.minimum(middle, values_NL.shape[1] - 1)
    medians = np.take_along_axis(values_NL, middle, axis=1).mean(axis=1)
    return np.where(counts[:, 0] > 0, medians, 0).astype(np.float32)
