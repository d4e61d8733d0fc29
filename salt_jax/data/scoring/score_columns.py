"""Computes the score record of each sequence from the scorer's per-token statistics.

Dimensions: N sequences, L length, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from salt_jax.data.prepared.sequences import Sequences
from salt_jax.data.scoring.minhash import sketches

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def record_dtype(ks: Sequence[int]) -> np.dtype:
    """Returns the dtype of a sequence's record: 64 bytes with four `ks`."""
    medians = [(name, "<f4") for k in ks for name in _median_names(k)]
    return np.dtype(
        [
            ("mean_loss", "<f4"),
            ("entropy", "<f4"),
            *medians,
            ("loss_quantiles", "<f2", (len(QUANTILES),)),
            ("sketch", "<u8"),
            ("domain", "<u2"),
        ]
    )


def column_definitions(ks: Sequence[int]) -> dict[str, str]:
    """Returns the definition of each field of a record."""
    percents = ", ".join(f"{100 * share:g}" for share in QUANTILES)
    definitions = {
        "mean_loss": "mean over targets of the scorer's cross-entropy, in nats",
        "entropy": "mean over targets of the entropy of the scorer's own distribution, "
        "in nats",
    }
    for k in ks:
        zeros, dropped = _median_names(k)
        definitions |= {
            zeros: "median over targets of the scorer's cross-entropy, or 0 where the "
            f"target is not in its top {k}",
            dropped: "median of the scorer's cross-entropy over the targets that are "
            f"in its top {k}; 0 if none is",
        }
    return definitions | {
        "loss_quantiles": "quantiles over targets of the scorer's cross-entropy, at "
        f"{percents} %",
        "sketch": "two bands of 32 bits; near-duplicates mostly share one",
        "domain": "index of the domain that holds most of the tokens; of several, the "
        "smallest",
    }


def score_columns(
    sequences: Sequences,
    *,
    ce_NL: np.ndarray,
    rank_NL: np.ndarray,
    entropy_NL: np.ndarray,
    ks: Sequence[int],
) -> dict[str, np.ndarray]:
    """Returns the columns of the score records of `sequences`.

    Args:
      sequences: The scored sequences. Padding is ignored.
      ce_NL: The scorer's cross-entropy at each target, in nats.
      rank_NL: The number of tokens that the scorer finds likelier than the target.
      entropy_NL: The entropy of the scorer's prediction at each target, in nats.
      ks: The k of each pair of medians; see `salt_scores`.

    Returns:
      Arrays [N] by column, and `loss_quantiles` [N, Q], with the dtypes of
      `record_dtype`. A sequence without targets has scores of 0.
    """
    is_token_NL = sequences.segments > 0
    dtype = record_dtype(ks)
    columns = salt_scores(ce_NL, rank_NL, is_token_NL, ks) | {
        "entropy": _mean(entropy_NL, is_token_NL),
        "loss_quantiles": loss_quantiles(ce_NL, is_token_NL),
        "sketch": sketches(sequences.tokens, is_token_NL),
        "domain": main_domains(sequences.domains),
    }
    # A loss that overflows its dtype becomes infinite, which the writer refuses.
    with np.errstate(over="ignore"):
        return {
            name: columns[name].astype(dtype[name].base)
            for name in column_definitions(ks)
        }


def salt_scores(
    ce_NL: np.ndarray,
    rank_NL: np.ndarray,
    weights_NL: np.ndarray,
    ks: Sequence[int] = (10,),
) -> dict[str, np.ndarray]:
    """Returns the mean loss, and SALT's score for each of `ks`.

    A position is learnable at k if fewer than k tokens are likelier than its target.
    SALT's score is the median over positions of 1[learnable] * cross-entropy
    (arXiv 2410.18779, Eq. 10). A position that is not learnable counts as 0 in the
    columns `..._zeros`, and is dropped in the columns `..._dropped`.

    Args:
      ce_NL: As in `score_columns`.
      rank_NL: As in `score_columns`.
      weights_NL: Positions count where this is positive.
      ks: As in `score_columns`.

    Returns:
      float32 [N] by column. A row without positions has scores of 0.
    """
    ce_NL = np.asarray(ce_NL, np.float32)
    is_counted_NL = np.asarray(weights_NL) > 0
    columns = {"mean_loss": _mean(ce_NL, is_counted_NL)}
    for k in ks:
        is_learnable_NL = is_counted_NL & (np.asarray(rank_NL) < k)
        with_zeros_NL = np.where(is_learnable_NL, ce_NL, np.float32(0))
        zeros, dropped = _median_names(k)
        columns[zeros] = _quantiles(with_zeros_NL, is_counted_NL, (0.5,))[:, 0]
        columns[dropped] = _quantiles(ce_NL, is_learnable_NL, (0.5,))[:, 0]
    return columns


def loss_quantiles(ce_NL: np.ndarray, is_target_NL: np.ndarray) -> np.ndarray:
    """Returns the `QUANTILES` of the cross-entropy in each row, float32 [N, Q].

    They interpolate linearly between values, like `numpy.quantile`.
    """
    return _quantiles(np.asarray(ce_NL, np.float32), is_target_NL, QUANTILES)


def main_domains(domains_NL: np.ndarray) -> np.ndarray:
    """Returns the domain with the most tokens in each row, int64 [N].

    Ties go to the smallest index. Padding is -1 and does not count.
    """
    num_rows, num_domains = len(domains_NL), max(int(domains_NL.max(initial=0)), 0) + 1
    row_of = np.arange(num_rows)[:, None]
    places = np.where(domains_NL >= 0, row_of * num_domains + domains_NL, -1) + 1
    counts = np.bincount(places.ravel(), minlength=num_rows * num_domains + 1)[1:]
    return counts.reshape(num_rows, num_domains).argmax(axis=1)


def _median_names(k: int) -> tuple[str, str]:
    return f"median_k{k}_zeros", f"median_k{k}_dropped"


def _mean(values_NL: np.ndarray, is_counted_NL: np.ndarray) -> np.ndarray:
    totals = np.sum(values_NL, axis=1, where=is_counted_NL, dtype=np.float64)
    return (totals / np.maximum(is_counted_NL.sum(axis=1), 1)).astype(np.float32)


def _quantiles(
    values_NL: np.ndarray, is_counted_NL: np.ndarray, shares: Sequence[float]
) -> np.ndarray:
    """Returns quantiles over the counted values of each row, float32 [N, Q].

    The median of an even number of values is the mean of the middle two. The quantiles
    of no values are 0.
    """
    values_NL = np.sort(np.where(is_counted_NL, values_NL, np.float32(np.inf)), axis=1)
    counts_N1 = is_counted_NL.sum(axis=1)[:, None]
    last_N1 = np.maximum(counts_N1 - 1, 0)
    places_NQ = last_N1 * np.asarray(shares)[None]
    below_NQ = np.floor(places_NQ).astype(np.int64)
    above_NQ = np.minimum(below_NQ + 1, last_N1)
    low_NQ, high_NQ = (
        np.take_along_axis(values_NL, x_NQ, axis=1) for x_NQ in (below_NQ, above_NQ)
    )
    with np.errstate(invalid="ignore"):  # inf - inf, in rows without counted values.
        found_NQ = low_NQ + (high_NQ - low_NQ) * (places_NQ - below_NQ)
    return np.where(counts_N1 > 0, found_NQ, 0).astype(np.float32)
