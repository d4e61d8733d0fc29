"""Documents, shuffled and joined, cut into sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from salt_jax.data import permutation, sequences
from salt_jax.data.manifest import DomainCounts
from salt_jax.data.tokenise import Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cut:
    """The tokens of a split in their order, and of which document each is."""

    seq_len: int
    tokens: np.ndarray
    lengths: np.ndarray  # int64, tokens of each document, its end included.
    num_bytes: np.ndarray  # int64, of each document's text.
    domains: np.ndarray  # Of each document, indices into `domain_names`.
    domain_names: tuple[str, ...]

    @classmethod
    def shuffled(cls, text: Text, *, seq_len: int, seed: int) -> Cut:
        """Returns the documents of `text` in the order that the seed gives them.

        Raises:
          ValueError: there are more domains than a record can name.
        """
        names = sorted(set(text.domains))
        if len(names) > sequences.MAX_DOMAINS:
            raise ValueError(
                f"{len(names)} domains, and a record can name {sequences.MAX_DOMAINS}: "
                "is 'pile_set_name' the name of a part of the corpus?"
            )
        index_of = {name: index for index, name in enumerate(names)}
        domains = np.array([index_of[name] for name in text.domains])
        count = len(text.lengths)
        order = permutation.shuffled(np.arange(count), size=count, seed=seed)
        documents = np.split(text.tokens, np.cumsum(text.lengths)[:-1])
        return cls(
            seq_len=seq_len,
            tokens=np.concatenate([documents[i] for i in order]),
            lengths=text.lengths[order],
            num_bytes=text.num_bytes[order],
            domains=domains[order],
            domain_names=tuple(names),
        )

    def __len__(self) -> int:
        return -(-len(self.tokens) // self.seq_len)

    def records(self) -> Iterator[bytes]:
        """Yields every sequence in order."""
        all_starts = np.cumsum(self.lengths) - self.lengths
        for index, (first, end) in enumerate(zip(*self._documents(), strict=True)):
            begin = index * self.seq_len
            starts = np.maximum(all_starts[first:end] - begin, 0)
            tokens = self.tokens[begin : begin + self.seq_len]
            yield sequences.to_record(starts, self.domains[first:end], tokens)

    def domain_counts(self) -> tuple[DomainCounts, ...]:
        """Returns how much there is of each of `domain_names`."""
        num_domains = len(self.domain_names)
        first, end = self._documents()
        pieces = end - first
        document = np.repeat(end - np.cumsum(pieces), pieces) + np.arange(pieces.sum())
        sequence = np.repeat(np.arange(len(self)), pieces)
        present = np.unique(sequence * num_domains + self.domains[document])
        counts = {
            "documents": np.bincount(self.domains, minlength=num_domains),
            "tokens": np.bincount(self.domains, self.lengths, num_domains),
            "sequences": np.bincount(present % num_domains, minlength=num_domains),
            "text_bytes": np.bincount(self.domains, self.num_bytes, num_domains),
        }
        return tuple(
            DomainCounts(**{name: int(values[i]) for name, values in counts.items()})
            for i in range(num_domains)
        )

    def _documents(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the first document of each sequence, and the one after its last."""
        starts = np.cumsum(self.lengths) - self.lengths
        begins = np.arange(len(self)) * self.seq_len
        first = np.searchsorted(starts, begins, side="right") - 1
        return first, np.searchsorted(starts, begins + self.seq_len)
