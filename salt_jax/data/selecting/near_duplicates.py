"""Finds sequences that nearly duplicate better ones.

Sequences that share a band of their MinHash sketches are candidates. Candidate pairs
are read, and are near-duplicates if their Jaccard similarity is high enough. Most
near-duplicates are found, but not all; `minhash` says how many share a band.

Dimensions: M candidates, P pairs, L length.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from absl import logging

from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.scoring.minhash import NUM_BANDS, bands, shingles

_PAIRS_AT_A_TIME = 512
_BLOCK = 1 << 20  # Bands processed at a time.
# The maximum number of rounds. In each, the best remaining sequence of a band is
# compared with the others. More rounds would only matter if more than this many
# sequences shared a band without being near-duplicates.
MOST_ROUNDS = 100


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Duplicates:
    """The dropped sequences, and the ones that replace them."""

    dropped: np.ndarray  # int64 [P], ids, increasing.
    kept: np.ndarray  # int64 [P], the better near-duplicate of each that stays.
    similarity: np.ndarray  # float32 [P], of the two.


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Drops sequences that are near-duplicates of better ones."""

    min_similarity: float  # The Jaccard similarity of shingles from which on to drop.

    def __post_init__(self):
        if not 0.0 < self.min_similarity <= 1.0:
            raise ValueError(
                f"min_similarity must be in (0, 1], got {self.min_similarity}."
            )

    def find(
        self,
        worth: np.ndarray,
        sketch: np.ndarray,
        dataset: PreparedDataset,
        *,
        most_rounds: int = MOST_ROUNDS,
    ) -> Duplicates:
        """Returns the sequences to drop, such that the best of near-duplicates stays.

        A sequence is dropped if a sequence that stays has a higher worth (or the same
        worth and a smaller id), shares a band with it, and reaches `min_similarity`.

        Args:
          worth: Real numbers [N], by id.
          sketch: uint64 [N], by id.
          dataset: The dataset whose first N sequences these are.
          most_rounds: The maximum number of rounds.

        Raises:
          ValueError: a shard of the dataset is damaged.
        """
        ids, labels = _candidates(worth, sketch)
        is_left_M = np.ones(len(ids), bool)
        found = [(np.zeros(0, np.int64),) * 2 + (np.zeros(0, np.float32),)]
        for _ in range(most_rounds):
            if not is_left_M.any():
                break
            settled, better, worse = _next_pairs(is_left_M, labels)
            similarity = similarities(dataset, ids[better], ids[worse])
            is_alike = similarity >= self.min_similarity
            better, worse = better[is_alike], worse[is_alike]
            found.append((ids[better], ids[worse], similarity[is_alike]))
            is_left_M[settled] = is_left_M[worse] = False
        if is_left_M.any():
            logging.warning(
                "Stopped the search for near-duplicates after %d rounds: %d sequences "
                "were not compared with all their candidates, and stay.",
                most_rounds,
                np.count_nonzero(is_left_M),
            )
        kept, dropped, similarity = (
            np.concatenate(x) for x in zip(*found, strict=True)
        )
        # A sequence may duplicate two that stay, one for each band.
        dropped, first = np.unique(dropped, return_index=True)
        return Duplicates(
            dropped=dropped, kept=kept[first], similarity=similarity[first]
        )


def similarities(dataset: PreparedDataset, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the Jaccard similarity of the shingles of pairs of sequences.

    Args:
      dataset: The dataset; read a few hundred pairs at a time.
      a: The first id of each pair, int64 [P].
      b: The second id of each pair, int64 [P].

    Returns:
      float32 [P], the size of the intersection over that of the union.
    """
    found = np.empty(len(a), np.float32)
    for begin in range(0, len(a), _PAIRS_AT_A_TIME):
        pairs = slice(begin, begin + _PAIRS_AT_A_TIME)
        ids, places = np.unique([a[pairs], b[pairs]], return_inverse=True)
        rows = dataset.read(ids)
        each = shingles(rows.tokens, rows.segments > 0)
        each_of = each[places.reshape(2, -1)]
        either = _num_distinct(np.concatenate(each_of, axis=1))
        both = _num_distinct(each_of[0]) + _num_distinct(each_of[1]) - either
        found[pairs] = both / either
    return found


def _candidates(worth: np.ndarray, sketch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the candidates, best first, and their band labels.

    Returns:
      The ids, int64 [M], of sequences that share a band with another; and labels,
      int64 [2, M], which are equal for candidates that share a band.
    """
    is_candidate = np.zeros(len(worth), bool)
    for band in range(NUM_BANDS):
        is_candidate[_sharing(sketch, band)] = True
    ids = np.flatnonzero(is_candidate)
    ids = ids[np.argsort(-worth[ids].astype(np.float64), kind="stable")]
    labels = [np.unique(x, return_inverse=True)[1] for x in bands(sketch[ids])]
    return ids, np.stack(labels)


def _sharing(sketch: np.ndarray, band: int) -> np.ndarray:
    """Returns the ids of sequences whose band another sequence shares, uint64."""
    # The band in the high bits and the id in the low bits: one in-place sort is enough.
    keys = np.empty(len(sketch), np.uint64)
    for begin in range(0, len(sketch), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        keys[part] = bands(sketch[part])[band]
        keys[part] <<= np.uint64(32)
        keys[part] |= np.arange(begin, begin + len(keys[part]), dtype=np.uint64)
    keys.sort()
    is_same = (keys[1:] ^ keys[:-1]) < np.uint64(1 << 32)
    is_shared = np.zeros(len(keys), bool)
    is_shared[1:] = is_same
    is_shared[:-1] |= is_same
    return keys[is_shared] & np.uint64((1 << 32) - 1)


def _next_pairs(
    is_left_M: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the candidates that certainly stay, and their pairs with worse ones.

    A candidate stays if it is the best one left in each of its bands: it has then been
    compared with all better ones. Candidates are given by rank, 0 being the best.
    """
    left = np.flatnonzero(is_left_M)
    best = []
    for label in labels:
        best_of = np.empty(len(is_left_M), np.int64)
        # Of several writes to one label the last wins: in reverse order, the best.
        best_of[label[left[::-1]]] = left[::-1]
        best.append(best_of[label[left]])
    settled = left[np.all(np.stack(best) == left[None], axis=0)]
    is_settled_M = np.zeros(len(is_left_M), bool)
    is_settled_M[settled] = True
    better, worse = np.concatenate(best), np.tile(left, len(best))
    is_pair = is_settled_M[better] & ~is_settled_M[worse]
    better, worse = better[is_pair], worse[is_pair]
    pairs = np.unique(np.stack([better, worse], axis=1), axis=0)
    return settled, pairs[:, 0], pairs[:, 1]


def _num_distinct(values: np.ndarray) -> np.ndarray:
    """Returns the number of distinct values in each row."""
    values = np.sort(values, axis=1)
    return 1 + np.count_nonzero(values[:, 1:] != values[:, :-1], axis=1)
