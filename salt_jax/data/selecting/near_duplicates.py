"""Finding sequences that are nearly the same as better ones.

Those that share a band of their sketches are candidates: the two are read, and are
near-duplicates if enough of their shingles are the same. Found are most, not all: see
`sketch` for how many share a band.

Dimensions: M candidates, P pairs, L length.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from absl import logging

from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.scoring.minhash import NUM_BANDS, bands, shingles

_PAIRS_AT_A_TIME = 512
_BLOCK = 1 << 20  # Bands taken at a time.
# How often the best that is left of a band is compared with the others. More is only
# needed where as many sequences share a band and are not nearly the same.
MOST_ROUNDS = 100


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Duplicates:
    """What is left out, and what stays in its place. int64 [P] and float32 [P]."""

    dropped: np.ndarray  # Ids, in increasing order, each once.
    kept: np.ndarray  # For each, a sequence like it that is worth more and stays.
    similarity: np.ndarray  # Of the two.


@dataclasses.dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Says when two sequences are so much alike that one of them is enough."""

    min_similarity: float  # Shared shingles, as a share of those that either has.

    def __post_init__(self):
        if not 0.0 < self.min_similarity <= 1.0:
            raise ValueError(
                f"min_similarity must be in (0, 1], got {self.min_similarity}."
            )

    def find(
        self, worth: np.ndarray, sketch: np.ndarray, dataset: PreparedDataset
    ) -> Duplicates:
        """Returns which sequences to drop, so that the best of those alike stays.

        A sequence is dropped if one that stays is worth more (of equal worth, has the
        smaller id), shares a band with it and is as similar as `min_similarity`.

        Args:
          worth: Real numbers [N], by id.
          sketch: uint64 [N], by id.
          dataset: Of which these are the first sequences.

        Raises:
          ValueError: a shard of the dataset is damaged.
        """
        ids, labels = _candidates(worth, sketch)
        is_left_M = np.ones(len(ids), bool)
        found = [(np.zeros(0, np.int64),) * 2 + (np.zeros(0, np.float32),)]
        for _ in range(MOST_ROUNDS):
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
                "After %d rounds of looking for near-duplicates, %d sequences were not "
                "compared with all that they share a band with, and stay.",
                MOST_ROUNDS,
                np.count_nonzero(is_left_M),
            )
        kept, dropped, similarity = (
            np.concatenate(x) for x in zip(*found, strict=True)
        )
        # A sequence may have been found like two that stay, one for each band.
        dropped, first = np.unique(dropped, return_index=True)
        return Duplicates(
            dropped=dropped, kept=kept[first], similarity=similarity[first]
        )


def similarities(dataset: PreparedDataset, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the Jaccard similarity of the shingles of pairs of sequences.

    Args:
      dataset: What they are sequences of; it is read a few hundred pairs at a time.
      a: Ids, int64 [P].
      b: As many.

    Returns:
      float32 [P]: the shingles that both have, as a share of those that either has.
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
    """Returns who shares a band with another, the best first, int64 [M]; its labels.

    Of each band, the label says which of the candidates share it: int64 [2, M].
    """
    is_candidate = np.zeros(len(worth), bool)
    for band in range(NUM_BANDS):
        is_candidate[_sharing(sketch, band)] = True
    ids = np.flatnonzero(is_candidate)
    ids = ids[np.argsort(-worth[ids].astype(np.float64), kind="stable")]
    labels = [np.unique(x, return_inverse=True)[1] for x in bands(sketch[ids])]
    return ids, np.stack(labels)


def _sharing(sketch: np.ndarray, band: int) -> np.ndarray:
    """Returns the ids of which another has the same band, uint64."""
    # A band above the id whose it is, so that one array is sorted, in its place.
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
    """Returns who stays for certain, and the pairs in which that one is the better.

    It stays if it is the best that is left of each of its bands: whatever is better
    was compared with it. Places among the candidates, of which the first is the best.
    """
    left = np.flatnonzero(is_left_M)
    best = []
    for label in labels:
        best_of = np.empty(len(is_left_M), np.int64)
        # Of several with one label the last stands: backwards, the best.
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
    """Returns how many different numbers each row has."""
    values = np.sort(values, axis=1)
    return 1 + np.count_nonzero(values[:, 1:] != values[:, :-1], axis=1)
