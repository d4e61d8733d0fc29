"""Cuts the concatenated, shuffled documents of a split into sequences.

A position is the index of a token in the whole split, from 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from salt_jax.data.prepared import sequences


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenRange:
    """Consecutive tokens of a split, and the documents that they belong to."""

    begin: int  # The position of the first token.
    tokens: np.ndarray
    starts: np.ndarray  # int64, position of each document; the first may begin earlier.
    domains: np.ndarray  # The domain of each document, as an index into the manifest's.

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.begin + len(self.tokens)

    def part(self, begin: int, end: int) -> TokenRange:
        """Returns the part of this range between `begin` and `end`."""
        begin = max(begin, self.begin)
        end = max(min(end, self.end), begin)
        first = int(np.searchsorted(self.starts, begin, side="right")) - 1
        last = int(np.searchsorted(self.starts, end))
        return TokenRange(
            begin=begin,
            tokens=self.tokens[begin - self.begin : end - self.begin],
            starts=self.starts[first:last],
            domains=self.domains[first:last],
        )

    def __add__(self, other: TokenRange) -> TokenRange:
        # A document that continues from one range into the other is in both.
        is_new = other.starts >= self.end
        return TokenRange(
            begin=self.begin,
            tokens=np.concatenate([self.tokens, other.tokens]),
            starts=np.concatenate([self.starts, other.starts[is_new]]),
            domains=np.concatenate([self.domains, other.domains[is_new]]),
        )

    def records(self, seq_len: int) -> Iterator[bytes]:
        """Yields the records of the sequences, from the beginning of the range."""
        for index, (first, last) in enumerate(zip(*self._bounds(seq_len), strict=True)):
            offset = index * seq_len
            starts = np.maximum(self.starts[first:last] - self.begin - offset, 0)
            tokens = self.tokens[offset : offset + seq_len]
            yield sequences.to_record(starts, self.domains[first:last], tokens)

    def sequences_by_domain(self, seq_len: int, num_domains: int) -> np.ndarray:
        """Returns the number of sequences with any token of each domain, int64."""
        first, last = self._bounds(seq_len)
        pieces = last - first
        document = np.repeat(last - np.cumsum(pieces), pieces) + np.arange(pieces.sum())
        sequence = np.repeat(np.arange(len(pieces)), pieces)
        present = np.unique(sequence * num_domains + self.domains[document])
        return np.bincount(present % num_domains, minlength=num_domains)

    def _bounds(self, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first document of each sequence, and one past its last."""
        begins = np.arange(self.begin, self.end, seq_len)
        ends = np.minimum(begins + seq_len, self.end)
        first = np.searchsorted(self.starts, begins, side="right") - 1
        return first, np.searchsorted(self.starts, ends)


def cut(
    token_ranges: Iterable[TokenRange], *, begin: int, end: int, seq_len: int
) -> Iterator[TokenRange]:
    """Yields the tokens from `begin` to `end` as ranges of whole sequences.

    Args:
      token_ranges: Consecutive ranges, without gaps, that cover these tokens.
      begin: The position where the first sequence begins.
      end: The position where the last sequence ends; it may be shorter than the others.
      seq_len: The length of the other sequences.

    Raises:
      ValueError: `token_ranges` do not cover these tokens.
    """
    rest = None
    for token_range in token_ranges:
        wanted = token_range.part(begin, end)
        if rest is not None:
            wanted = rest + wanted
        last = wanted.end
        if last < end:
            last -= (last - begin) % seq_len
        if last > wanted.begin:
            yield wanted.part(wanted.begin, last)
        rest = wanted.part(last, wanted.end)
    if rest is None or rest.end != end:
        raise ValueError(
            f"Tokens {begin} to {end} are needed, and only those up to "
            f"{begin if rest is None else rest.end} exist."
        )
