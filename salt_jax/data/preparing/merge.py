"""The second pass: merges all sorted runs into one order, one bucket at a time.

A *bucket* holds the documents whose shuffle keys share their leading bits. Keys are
uniform, so buckets have about equal sizes. Their number bounds the memory and does not
change the result.
"""

from __future__ import annotations

import dataclasses
import functools
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from salt_jax.data.preparing.cut import TokenRange
from salt_jax.data.preparing.sorted_runs import DOCUMENT, PartRuns, SortedRun

_MAX_BITS = 24
_PLACED = np.dtype([("key", "<u8"), ("part", "<i8"), ("run", "<i8"), *DOCUMENT.descr])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergePlan:
    """The position of every document in a split."""

    runs: Sequence[SortedRun]
    parts: Sequence[int]  # The part of each run.
    domains: Sequence[np.ndarray]  # By run: maps its part's domains to the split's.
    bits: int  # The leading bits of a key that number its bucket.
    begins: (
        np.ndarray
    )  # int64 [buckets + 1], positions where buckets begin, and the end.

    @classmethod
    def of(
        cls, parts: Sequence[PartRuns], domains: Sequence[str], *, bucket_tokens: int
    ) -> MergePlan:
        """Divides the keys into buckets of about `bucket_tokens` tokens each."""
        total = sum(part.counts.tokens.total() for part in parts)
        bits = min((total // bucket_tokens).bit_length(), _MAX_BITS)
        runs = [run for part in parts for run in part.runs]
        begins = np.zeros(2**bits + 1, np.int64)
        for run in runs:
            begins += _token_bounds(run, bits)
        index_of = {name: index for index, name in enumerate(domains)}
        return cls(
            runs=runs,
            parts=[part.index for part in parts for _ in part.runs],
            domains=[
                np.array([index_of[name] for name in part.domains], np.int64)
                for part in parts
                for _ in part.runs
            ],
            bits=bits,
            begins=begins,
        )

    def token_ranges(self, begin: int, end: int) -> Iterator[TokenRange]:
        """Yields the documents with any token from `begin` to `end`, by bucket."""
        first = int(np.searchsorted(self.begins, begin, side="right")) - 1
        for bucket in range(first, int(np.searchsorted(self.begins, end))):
            documents = np.concatenate(
                [self._documents(index, bucket) for index in range(len(self.runs))]
            )
            columns = [documents[name] for name in ("number", "part", "key")]
            documents = documents[np.lexsort(columns)]
            lengths = documents["num_tokens"]
            starts = self.begins[bucket] + np.cumsum(lengths) - lengths
            wanted = (starts < end) & (starts + lengths > begin)
            if wanted.any():
                yield TokenRange(
                    begin=int(starts[wanted][0]),
                    tokens=self._tokens(documents[wanted]),
                    starts=starts[wanted],
                    domains=documents["domain"][wanted],
                )
            self._release()

    @functools.cached_property
    def _opened(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The mapped keys, documents and tokens of each run. Opening them is slow."""
        return [
            (run.open("keys"), run.open("documents"), run.open("tokens"))
            for run in self.runs
        ]

    def _release(self) -> None:
        """Releases the resident pages of the mapped files."""
        for arrays in self._opened:
            for array in arrays:
                if isinstance(array.base, mmap.mmap):
                    array.base.madvise(mmap.MADV_DONTNEED)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the fields without the opened files, for other processes."""
        return {k: v for k, v in vars(self).items() if k != "_opened"}

    def _documents(self, index: int, bucket: int) -> np.ndarray:
        """Returns the documents of a bucket from run number `index`."""
        keys, documents, _ = self._opened[index]
        first, last = _bounds(keys, self.bits, bucket, bucket + 1)
        found = documents[first:last]
        placed = np.empty(len(found), _PLACED)
        placed["key"] = keys[first:last]
        placed["part"], placed["run"] = self.parts[index], index
        for name in ("number", "begin", "num_tokens"):
            placed[name] = found[name]
        placed["domain"] = self.domains[index][found["domain"]]
        return placed

    def _tokens(self, documents: np.ndarray) -> np.ndarray:
        """Returns the tokens of documents that are adjacent in every run."""
        ends = documents["begin"] + documents["num_tokens"]
        tokens = {}
        for index in np.unique(documents["run"]):
            here = documents["run"] == index
            first, last = documents["begin"][here].min(), ends[here].max()
            tokens[index] = first, np.array(self._opened[index][2][first:last])
        pieces = []
        for document, end in zip(documents, ends, strict=True):
            first, array = tokens[document["run"]]
            pieces.append(array[document["begin"] - first : end - first])
        return np.concatenate(pieces)


def _bounds(keys: np.ndarray, bits: int, first: int, last: int) -> np.ndarray:
    """Returns how many of the sorted `keys` precede buckets `first` to `last`."""
    buckets = np.arange(first, min(last + 1, 1 << bits), dtype=np.uint64)
    # A shift by 64 bits is undefined; with a single bucket none is needed.
    begins = buckets << np.uint64(64 - bits) if bits else buckets
    bounds = np.searchsorted(keys, begins)
    return bounds if last < 1 << bits else np.append(bounds, len(keys))


def _token_bounds(run: SortedRun, bits: int) -> np.ndarray:
    """Returns the tokens of a run before each bucket, and the total, int64."""
    keys, documents = run.open("keys"), run.open("documents")
    ends = documents["begin"] + documents["num_tokens"]
    return np.concatenate([[0], ends])[_bounds(keys, bits, 0, 1 << bits)]
