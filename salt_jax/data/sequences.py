"""Sequences of one length, with several documents in each, in memory and as records.

Dimensions: N sequences, L length.

A record is little-endian, without gaps:

    num_documents   uint32      documents of which the sequence has a piece
    num_tokens      uint32      tokens before the padding
    starts          uint32      [num_documents], where each document begins in it
    domains         uint16      [num_documents], indices into the manifest's domains
    tokens          uint16, or uint32 for vocabularies above 65,536; [num_tokens]

A document that began in an earlier sequence begins at 0 in this one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

_COUNT = np.dtype("<u4")
_DOMAIN = np.dtype("<u2")
MAX_DOMAINS = 1 << 15


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Rows of tokens, and which document each token is of."""

    tokens: np.ndarray  # int32 [N, L], padded at the end.
    segments: np.ndarray  # int32 [N, L], the document in the row from 1; 0 is padding.
    positions: np.ndarray  # int32 [N, L], from each document's start in the row.
    domains: np.ndarray  # int16 [N, L], indices into the manifest's; -1 is padding.


def token_dtype(vocabulary_size: int) -> np.dtype:
    """Returns the type in which the tokens of a record are stored."""
    return np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")


def to_record(starts: np.ndarray, domains: np.ndarray, tokens: np.ndarray) -> bytes:
    """Returns one sequence as bytes; `tokens` are already of the `token_dtype`."""
    counts = np.array([len(starts), len(tokens)], _COUNT)
    head = counts.tobytes() + starts.astype(_COUNT).tobytes()
    return head + domains.astype(_DOMAIN).tobytes() + tokens.tobytes()


def from_records(
    records: Sequence[bytes], *, seq_len: int, dtype: np.dtype, pad_id: int
) -> Sequences:
    """Returns the sequences that `to_record` wrote, padded to `seq_len`."""
    shape = (len(records), seq_len)
    tokens = np.full(shape, pad_id, np.int32)
    begins = np.zeros(shape, bool)
    lengths = np.zeros((len(records), 1), np.int64)
    domains_of_documents = []
    for row, record in enumerate(records):
        num_documents, num_tokens = np.frombuffer(record, _COUNT, 2)
        starts = np.frombuffer(record, _COUNT, num_documents, 8)
        offset = 8 + starts.nbytes
        domains = np.frombuffer(record, _DOMAIN, num_documents, offset)
        offset += domains.nbytes
        tokens[row, :num_tokens] = np.frombuffer(record, dtype, num_tokens, offset)
        begins[row, starts] = True
        lengths[row] = num_tokens
        domains_of_documents.append(domains)
    is_padding = np.arange(seq_len) >= lengths
    document = np.cumsum(begins).reshape(shape) - 1
    domains = np.concatenate(domains_of_documents or [np.zeros(0, _DOMAIN)])
    return Sequences(
        tokens,
        np.where(is_padding, 0, np.cumsum(begins, axis=1)).astype(np.int32),
        np.where(is_padding, 0, _since_last(begins)).astype(np.int32),
        np.where(is_padding, -1, domains[document]).astype(np.int16),
    )


def _since_last(begins: np.ndarray) -> np.ndarray:
    """Returns how many columns ago the last True of each row was, [N, L]."""
    columns = np.arange(begins.shape[1])
    return columns - np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
