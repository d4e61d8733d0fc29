"""Packed sequences of one length, in memory and as records on disk.

Dimensions: N sequences, L length.

A record is little-endian, without gaps:

    num_documents   uint32      the number of documents with tokens in the sequence
    num_tokens      uint32      the number of tokens, without padding
    starts          uint32      [num_documents], where each document starts
    domains         uint16      [num_documents], indices into the manifest's domains
    tokens          uint16, or uint32 for vocabularies above 65,536; [num_tokens]

A document that continues from an earlier sequence starts at 0 in this one.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence

import numpy as np

_HEAD = struct.Struct("<II")
_COUNT = np.dtype("<u4")
_DOMAIN = np.dtype("<u2")
_SIGNED = np.dtype("<i2")
_NO_DOMAIN = np.array([-1], np.int16)
MAX_DOMAINS = 1 << 15


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Rows of tokens, with the document that each token belongs to."""

    tokens: np.ndarray  # int32 [N, L], padded at the end.
    segments: np.ndarray  # int32 [N, L], documents of a row count from 1; 0: padding.
    positions: np.ndarray  # int32 [N, L], counted from each document's start.
    domains: np.ndarray  # int16 [N, L], indices into the manifest's; -1 is padding.
    begin_id: int = 0  # What a model reads before the first token of a document.


def token_dtype(vocabulary_size: int) -> np.dtype:
    """Returns the dtype of the tokens in a record."""
    return np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")


def to_record(starts: np.ndarray, domains: np.ndarray, tokens: np.ndarray) -> bytes:
    """Returns a sequence as bytes; `tokens` must have the `token_dtype`."""
    counts = np.array([len(starts), len(tokens)], _COUNT)
    head = counts.tobytes() + starts.astype(_COUNT).tobytes()
    return head + domains.astype(_DOMAIN).tobytes() + tokens.tobytes()


def from_record(
    record: bytes, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the starts, domains and tokens of a record.

    Raises:
      ValueError: the length of the record does not match its header.
    """
    counts = np.frombuffer(record[: 2 * _COUNT.itemsize], _COUNT)
    sizes = [_COUNT.itemsize, _DOMAIN.itemsize, dtype.itemsize]
    if len(counts) == 2:
        num_documents, num_tokens = counts.tolist()
        numbers = [num_documents, num_documents, num_tokens]
        lengths = [n * size for n, size in zip(numbers, sizes, strict=True)]
        if len(record) == counts.nbytes + sum(lengths):
            offsets = np.cumsum([counts.nbytes, *lengths]).tolist()
            return (
                np.frombuffer(record, _COUNT, num_documents, offsets[0]),
                np.frombuffer(record, _DOMAIN, num_documents, offsets[1]),
                np.frombuffer(record, dtype, num_tokens, offsets[2]),
            )
    raise ValueError(f"a record of {len(record)} bytes does not match its header")


def from_records(
    records: Sequence[bytes],
    *,
    seq_len: int,
    dtype: np.dtype,
    pad_id: int,
    begin_id: int = 0,
) -> Sequences:
    """Returns the sequences of records, padded to `seq_len`."""
    shape = (len(records), seq_len)
    tokens = np.full(shape, pad_id, np.int32)
    # Each row is split into its documents and a last, possibly empty, padding piece.
    begins, domains = [np.zeros(0, _COUNT)], [np.zeros(0, _SIGNED)]
    counts: list[int] = []
    for row, record in enumerate(records):
        num_documents, num_tokens = _HEAD.unpack_from(record)
        end = np.frombuffer(record, _COUNT, 1, 4)
        begins += [np.frombuffer(record, _COUNT, num_documents, 8), end]
        offset = 8 + 4 * num_documents
        # Domains are below MAX_DOMAINS, so they are equal as signed integers.
        domains += [np.frombuffer(record, _SIGNED, num_documents, offset), _NO_DOMAIN]
        offset += 2 * num_documents
        tokens[row, :num_tokens] = np.frombuffer(record, dtype, num_tokens, offset)
        counts.append(num_documents + 1)
    segments, begin_of, lengths = _pieces(np.concatenate(begins), counts, seq_len)
    columns = np.arange(tokens.size, dtype=np.int32)
    positions = (columns - np.repeat(begin_of, lengths)).reshape(shape)
    segments = np.repeat(segments, lengths).reshape(shape)
    np.multiply(positions, segments > 0, out=positions)
    return Sequences(
        tokens,
        segments,
        positions,
        np.repeat(np.concatenate(domains), lengths).reshape(shape),
        begin_id,
    )


def _pieces(
    begins: np.ndarray, counts: Sequence[int], seq_len: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the segment, the flat position and the length of each piece.

    Args:
      begins: Where each piece begins in its row.
      counts: The number of pieces in each row; the last piece is padding.
      seq_len: The length of a row.
    """
    rows = np.repeat(np.arange(len(counts)), counts)
    begin_of = begins.astype(np.int64) + rows * seq_len
    lengths = np.diff(begin_of, append=len(counts) * seq_len)
    ends = np.cumsum(np.array(counts, np.int64))
    segments = np.arange(1, len(rows) + 1) - (ends - counts)[rows]
    segments[ends - 1] = 0
    # In int32, because these are expanded to arrays of the size of the tokens.
    return segments.astype(np.int32), begin_of.astype(np.int32), lengths
