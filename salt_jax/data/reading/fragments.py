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
    rows: np.ndarray  # int64 [P], from 0 and increasing.
    epochs: np.ndarray  # int64 [P]
    ids: np.ndarray  # int64 [P], of the sequence that a fragment is from.
    offsets: np.ndarray  # int64 [P], where in the sequence it begins.

    def texts(self) -> list[np.ndarray]:
        """Returns the tokens of each fragment."""
        ends = np.cumsum(self.lengths)
        begins = (ends - self.lengths).tolist()
        return [self.tokens[i:j] for i, j in zip(begins, ends.tolist(), strict=True)]

    def begins_in_rows(self) -> np.ndarray:
        """Returns how many tokens each fragment has before it in its row, int64 [P]."""
        begins = np.cumsum(self.lengths) - self.lengths
        return begins - begins[np.searchsorted(self.rows, self.rows)]


def fragments_of(
    stream: SequenceStream, begins: np.ndarray, ends: np.ndarray
) -> Fragments:
    """Cuts the text of a stream from `begins` to `ends`, int64 [B], into fragments.

    A fragment is of one document in one sequence. Tokens are counted from the stream's
    beginning, paddings included; those are left out. All sequences are read together,
    each of them once.
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
    """Returns the parts of single sequences that ranges of tokens are made of.

    Returns:
      int64 [C] each: the range a part is of, the place of its sequence in the stream,
      and the columns of the sequence at which it begins and stops.
    """
    firsts, lasts = begins // seq_len, (ends - 1) // seq_len
    rows, within = _counted(lasts - firsts + 1)
    places = firsts[rows] + within
    columns = np.maximum(begins[rows] - places * seq_len, 0)
    stops = np.minimum(ends[rows] - places * seq_len, seq_len)
    return rows, places, columns, stops


def _counted(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each index as often as `counts` says, and beside it 0, 1, 2, ..."""
    index = np.repeat(np.arange(len(counts)), counts)
    return index, np.arange(len(index)) - (np.cumsum(counts) - counts)[index]
