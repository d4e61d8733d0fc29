"""From files of documents to tokens in memory, on several threads."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

import numpy as np
from etils import epath

from salt_jax.data import corpus, sequences
from salt_jax.data.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Text:
    """Tokenised documents, one after another in the order of the corpus."""

    tokens: np.ndarray  # Of the type in which they are stored.
    lengths: np.ndarray  # int64, tokens of each document, its end included.
    num_bytes: np.ndarray  # int64, of each document's text.
    domains: Sequence[str]  # Of each document.
    bad_lines: Sequence[str]  # Where, and what is wrong.

    @classmethod
    def join(cls, texts: Sequence[Text]) -> Text:
        """Returns all of `texts` as one."""
        return cls(
            np.concatenate([text.tokens for text in texts]),
            np.concatenate([text.lengths for text in texts]),
            np.concatenate([text.num_bytes for text in texts]),
            [domain for text in texts for domain in text.domains],
            [line for text in texts for line in text.bad_lines],
        )


def tokenise(
    files: Sequence[epath.Path], vocabulary: Vocabulary, *, num_threads: int
) -> Text:
    """Returns the tokens of all documents of `files`, and the lines that are none.

    Raises:
      ValueError: a file is damaged or cut short, or there is no document at all.
    """
    # SentencePiece releases the interpreter's lock, so threads are enough.
    blocks = (block for path in files for block in corpus.read_lines(path))
    with futures.ThreadPoolExecutor(num_threads) as pool:
        encoded = _in_order(
            pool,
            lambda block: _tokenise_block(block, vocabulary),
            blocks,
            4 * num_threads,
        )
        texts = list(encoded)
    if not texts:
        raise ValueError(f"No lines in {[str(path) for path in files]}.")
    return Text.join(texts)


def _in_order(
    pool: futures.Executor,
    function: Callable[[corpus.Lines], Text],
    blocks: Iterator[corpus.Lines],
    num_ahead: int,
) -> Iterator[Text]:
    """Yields `function` of each block, working on at most `num_ahead` at a time."""
    pending: collections.deque[futures.Future[Text]] = collections.deque()
    for block in blocks:
        pending.append(pool.submit(function, block))
        if len(pending) >= num_ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _tokenise_block(block: corpus.Lines, vocabulary: Vocabulary) -> Text:
    documents, bad_lines = [], []
    for number, line in enumerate(block.lines, block.first_number):
        try:
            documents.append(corpus.parse_document(line))
        except ValueError as error:
            bad_lines.append(f"{block.path}:{number}: {error}")
    dtype = sequences.token_dtype(vocabulary.size)
    encoded = [
        np.array([*vocabulary.encode(document.text), vocabulary.eos_id], dtype)
        for document in documents
    ]
    return Text(
        np.concatenate([np.zeros(0, dtype), *encoded]),
        np.array([len(tokens) for tokens in encoded], np.int64),
        np.array([document.num_bytes for document in documents], np.int64),
        [document.domain for document in documents],
        bad_lines,
    )
