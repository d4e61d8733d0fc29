"""Shuffled documents, joined, cut into sequences.

Positions are those of tokens in the whole split, from 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from salt_jax.data.prepared import sequences


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenRange:
    """Consecutive tokens of a split, and of which documents they are."""

    begin: int  # The position of the first.
    tokens: np.ndarray
    starts: np.ndarray  # int64, positions; the first document may begin before.
    domains: np.ndarray  # Of each document, indices into the manifest's.

    @property
    def end(self) -> int:
        """The position after the last token."""
        return self.begin + len(self.tokens)

    def part(self, begin: int, end: int) -> TokenRange:
        """Returns what is from `begin` to `end`, as far as it is here."""
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
        # A document that goes on is in both.
        is_new = other.starts >= self.end
        return TokenRange(
            begin=self.begin,
            tokens=np.concatenate([self.tokens, other.tokens]),
            starts=np.concatenate([self.starts, other.starts[is_new]]),
            domains=np.concatenate([self.domains, other.domains[is_new]]),
        )

    def records(self, seq_len: int) -> Iterator[bytes]:
        """Yields the sequences, of which the first begins where this does."""
        for index, (first, last) in enumerate(zip(*self._bounds(seq_len), strict=True)):
            offset = index * seq_len
            starts = np.maximum(self.starts[first:last] - self.begin - offset, 0)
            tokens = self.tokens[offset : offset + seq_len]
            yield sequences.to_record(starts, self.domains[first:last], tokens)

    def sequences_by_domain(self, seq_len: int, num_domains: int) -> np.ndarray:
        """Returns how many sequences hold any token of each domain, int64."""
        first, last = self._bounds(seq_len)
        pieces = last - first
        document = np.repeat(last - np.cumsum(pieces), pieces) + np.arange(pieces.sum())
        sequence = np.repeat(np.arange(len(pieces)), pieces)
        present = np.unique(sequence * num_domains + self.domains[document])
        return np.bincount(present % num_domains, minlength=num_domains)

    def _bounds(self, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first document of each sequence, and the one after its last."""
        begins = np.arange(self.begin, self.end, seq_len)
        ends = np.minimum(begins + seq_len, self.end)
        first = np.searchsorted(self.starts, begins, side="right") - 1
        return first, np.searchsorted(self.starts, ends)


def cut(
    token_ranges: Iterable[TokenRange], *, begin: int, end: int, seq_len: int
) -> Iterator[TokenRange]:
    """Yields the tokens from `begin` to `end` in ranges of whole sequences.

    Args:
      token_ranges: What is in between, and perhaps more, in order and without a gap.
      begin: Where the first sequence begins.
      end: Where the last one ends, which may be shorter.
      seq_len: The tokens of the others.

    Raises:
      ValueError: the ranges do not hold these tokens.
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
            f"Tokens {begin} to {end} are to be written, and those up to "
            f"{begin if rest is None else rest.end} are there."
        )
