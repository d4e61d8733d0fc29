"""Tokenizes the documents of a part on several threads."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import TypeVar

import numpy as np

from salt_jax.data.corpora.document import Document, Part, RecordBlock
from salt_jax.data.prepared import sequences
from salt_jax.data.preparing.shuffle import shuffle_keys
from salt_jax.data.vocabulary import Vocabulary

X = TypeVar("X")
Y = TypeVar("Y")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizedBlock:
    """The tokenized documents of a block, concatenated, and its malformed records."""

    tokens: np.ndarray  # In the dtype in which they are stored.
    lengths: np.ndarray  # int64, tokens per document, with its end token.
    num_bytes: np.ndarray  # int64, bytes of text per document.
    numbers: np.ndarray  # int64, the number of each document's record in its part.
    keys: np.ndarray  # uint64, the shuffle key of each document.
    domains: Sequence[str]  # The domain of each document.
    other_domains: frozenset[str]  # Domains of documents that were dropped.
    num_records: int  # Documents, kept or dropped, and malformed records.
    bad_records: Sequence[str]  # The place and problem of each malformed record.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Turns the text of parts into tokens with shuffle keys."""

    vocabulary: Vocabulary
    seed: int  # Of the shuffle keys.
    domains: frozenset[str] | None = None  # The domains to keep; None: all.
    num_threads: int = 1

    def read(self, part_index: int, part: Part) -> Iterator[TokenizedBlock]:
        """Yields the tokenized documents of a part, block by block.

        Raises:
          ValueError: the part is damaged or truncated.
        """
        # SentencePiece releases the GIL, so threads are enough.
        with futures.ThreadPoolExecutor(self.num_threads) as pool:
            yield from _in_order(
                pool,
                lambda block: self._read_block(part_index, part.name, block),
                part.blocks(),
                4 * self.num_threads,
            )

    def _read_block(
        self, part_index: int, name: str, block: RecordBlock
    ) -> TokenizedBlock:
        records = list(block.documents())
        found = [(n, x) for n, x in records if isinstance(x, Document)]
        kept = [
            (number, document)
            for number, document in found
            if self.domains is None or document.domain in self.domains
        ]
        encoded = [self._encode(document) for _, document in kept]
        numbers = np.array([number for number, _ in kept], np.int64)
        return TokenizedBlock(
            tokens=np.concatenate([np.zeros(0, self._dtype), *encoded]),
            lengths=np.array([len(tokens) for tokens in encoded], np.int64),
            num_bytes=np.array([document.num_bytes for _, document in kept], np.int64),
            numbers=numbers,
            keys=shuffle_keys(self.seed, part_index, numbers),
            domains=[document.domain for _, document in kept],
            other_domains=frozenset(
                document.domain
                for _, document in found
                if self.domains is not None and document.domain not in self.domains
            ),
            num_records=len(records),
            bad_records=[f"{name}:{n}: {x}" for n, x in records if isinstance(x, str)],
        )

    def _encode(self, document: Document) -> np.ndarray:
        """Returns the tokens of a document, followed by the end token."""
        encoded = document.tokens
        if encoded is None:
            encoded = self.vocabulary.encode_array(document.text)
        tokens = np.empty(len(encoded) + 1, self._dtype)
        tokens[:-1], tokens[-1] = encoded, self.vocabulary.eos_id
        return tokens

    @property
    def _dtype(self) -> np.dtype:
        return sequences.token_dtype(self.vocabulary.size)


def _in_order(
    pool: futures.Executor,
    function: Callable[[X], Y],
    items: Iterable[X],
    num_ahead: int,
) -> Iterator[Y]:
    """Yields `function(item)` in order, with at most `num_ahead` calls in flight."""
    pending: collections.deque[futures.Future[Y]] = collections.deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= num_ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
