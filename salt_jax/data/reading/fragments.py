"""Fragments of documents, cut out of an endless stream of shuffled sequences.

Dimensions: B rows, C cuts, P fragments, T tokens of all fragments.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from salt_jax.data.reading.rows import SequenceStream


@dataclasses.dataclass(frozen=True)
class Fragments:
    """Fragments of documents, concatenated in the order of their rows."""

    tokens: np.ndarray  # int32 [T], read-only.
    lengths: np.ndarray  # int64 [P], at least 1.
    rows: np.ndarray  # int64 [P], from 0, never decreasing.
    epochs: np.ndarray  # int64 [P]
    ids: np.ndarray  # int64 [P], the sequence of each fragment.
    offsets: np.ndarray  # int64 [P], where in that sequence the fragment begins.

    def texts(self) -> list[np.ndarray]:
        """Returns the tokens of each fragment."""
        ends = np.cumsum(self.lengths)
        begins = (ends - self.lengths).tolist()
        return [self.tokens[i:j] for i, j in zip(begins, ends.tolist(), strict=True)]

    def begins_in_rows(self) -> np.ndarray:
        """Returns the number of tokens before each fragment in its row, int64 [P]."""
        begins = np.cumsum(self.lengths) - self.lengths
        return begins - begins[np.searchsorted(self.rows, self.rows)]


def fragments_of(
    stream: SequenceStream, begins: np.ndarray, ends: np.ndarray
) -> Fragments:
    """Cuts the text of a stream from `begins` to `ends`, int64 [B], into fragments.

    A fragment is the part of one document that is in one sequence. Positions count
    from the beginning of the stream, padding included; fragments hold no padding. Each
    sequence is read once.
    """
    seq_len = stream.dataset.manifest.seq_len
    rows, places, columns, stops = _cuts(begins, ends, seq_len)
    unique, index = np.unique(places, return_inverse=True)
    ids = stream.ids_at(unique)
    sequences = stream.dataset.read(ids)
    cut, within = _counted(stops - columns)
    column = columns[cut] + within
    token = index[cut] * seq_len + column
    segments = sequences.segments.ravel()[token]
    (kept,) = np.nonzero(segments)
    is_first = np.ones(len(kept), bool)
    is_first[1:] = (np.diff(cut[kept]) != 0) | (np.diff(segments[kept]) != 0)
    firsts = kept[is_first]
    cuts = cut[firsts]
    tokens = sequences.tokens.ravel()[token[kept]]
    tokens.flags.writeable = False
    return Fragments(
        tokens,
        lengths=np.diff(np.flatnonzero(is_first), append=len(kept)),
        rows=rows[cuts],
        epochs=places[cuts] // len(stream),
        ids=ids[index[cuts]],
        offsets=column[firsts],
    )


def _cuts(begins: np.ndarray, ends: np.ndarray, seq_len: int) -> tuple[np.ndarray, ...]:
    """Splits ranges of tokens at the borders of sequences.

    Returns:
      For each part, int64 [C]: the index of its range, the place of its sequence in
      the stream, and the columns of that sequence where it begins and ends.
    """
    firsts, lasts = begins // seq_len, (ends - 1) // seq_len
    rows, within = _counted(lasts - firsts + 1)
    places = firsts[rows] + within
    columns = np.maximum(begins[rows] - places * seq_len, 0)
    stops = np.minimum(ends[rows] - places * seq_len, seq_len)
    return rows, places, columns, stops


def _counted(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Repeats each index `counts` times; also returns 0, 1, 2, ... within each."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - (np.cumsum(counts) - counts)[index]
