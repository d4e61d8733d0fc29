"""Random Markov languages: data whose next-token distributions are known exactly.

Dimensions: B batch, L length, V vocabulary, C contexts.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import zlib
from typing import Any

import numpy as np

from salt_jax.batch import Batch
from salt_jax.data.splitmix64 import GOLDEN_GAMMA, MASK_64, mix
from salt_jax.data.vocabulary import Vocabulary

LEAST_CONCENTRATION = 0.05  # Below it, all gamma draws of a context may be 0.
MOST_NUMBERS = 1 << 24  # Of the table of next-token probabilities.
_GOLDEN = np.uint64(GOLDEN_GAMMA)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MarkovLanguage:
    """Text of a random Markov chain, as what a stage reads and what validation reads.

    The distribution of the next token depends on the last `order` tokens, and is drawn
    for each context from a symmetric Dirichlet distribution over all tokens but the
    begin token, which is never written. Each row is a document: it begins with `order`
    begin tokens, of which a model reads the last. The rows of a split are an endless
    stream without repetition.
    """

    vocabulary: str  # Of its tokens; "embedded:tokenizer/symbols_32.json", for example.
    order: int  # Tokens of a context.
    concentration: float  # Of the Dirichlet distribution: lower is more predictable.
    seed: int = 0  # Of the language; that of an experiment draws the text.
    split: str = "train"  # Splits share the language, and no text.

    def __post_init__(self):
        if self.order < 1:
            raise ValueError(f"order must be positive, got {self.order}.")
        if not self.concentration >= LEAST_CONCENTRATION:
            raise ValueError(
                f"concentration must be at least {LEAST_CONCENTRATION}, got "
                f"{self.concentration}."
            )

    @property
    def has_prefix(self) -> bool:
        """Whether rows have a prefix with bidirectional attention: they have none."""
        return False

    def open_rows(self, *, seq_len: int, seed: int) -> MarkovRows:
        """Opens the split as rows of `seq_len` tokens, drawn by `seed`.

        Raises:
          FileNotFoundError: the vocabulary is missing.
          ValueError: the table of probabilities would be too large.
        """
        return MarkovRows(self.truth(), seq_len=seq_len, seed=seed, split=self.split)

    def truth(self) -> MarkovTruth:
        """Returns the next-token distribution of every context.

        Raises what `open_rows` does.
        """
        vocabulary = Vocabulary.open(self.vocabulary)
        size = vocabulary.size
        if size ** (self.order + 1) > MOST_NUMBERS:
            raise ValueError(
                f"A language of order {self.order} over {size} tokens has "
                f"{size ** (self.order + 1):,} probabilities, more than "
                f"{MOST_NUMBERS:,}: lower order, or take a smaller vocabulary."
            )
        # RandomState's streams are frozen: the same in every version of NumPy.
        draws = np.random.RandomState(self.seed & 0xFFFFFFFF).standard_gamma(
            self.concentration, size=(size**self.order, size)
        )
        draws[:, vocabulary.begin_id] = 0.0
        probabilities_CV = draws / draws.sum(axis=-1, keepdims=True)
        return MarkovTruth(probabilities_CV, self.order, vocabulary.begin_id)


@dataclasses.dataclass(frozen=True, eq=False)
class MarkovTruth:
    """The next-token distributions of a Markov language.

    A context is numbered by its tokens as the digits of a number in base V.
    """

    probabilities_CV: np.ndarray  # float64.
    order: int  # Tokens of a context.
    begin_id: int

    @functools.cached_property
    def entropies(self) -> np.ndarray:
        """The entropy of the next token [nats], float64 [C]."""
        p_CV = self.probabilities_CV
        log_p_CV = np.log(p_CV, out=np.zeros_like(p_CV), where=p_CV > 0)
        return -np.sum(p_CV * log_p_CV, axis=-1)

    @property
    def first_context(self) -> int:
        """The number of the context before the first token of a row."""
        size = self.probabilities_CV.shape[1]
        return sum(self.begin_id * size**place for place in range(self.order))

    def following(self, contexts: Any, tokens: Any) -> Any:
        """Returns the contexts after `tokens`; arrays of NumPy or JAX."""
        count, size = self.probabilities_CV.shape
        return (contexts * size + tokens) % count

    def contexts(self, tokens_BL: np.ndarray) -> np.ndarray:
        """Returns the context of each target, int64 [B, L].

        Args:
          tokens_BL: What a model reads: the targets, shifted to the right behind the
            begin token.
        """
        contexts_BL = np.full(tokens_BL.shape, self.first_context, np.int64)
        for column in range(1, tokens_BL.shape[1]):
            before_B = contexts_BL[:, column - 1]
            contexts_BL[:, column] = self.following(before_B, tokens_BL[:, column])
        return contexts_BL


class MarkovRows:
    """Rows of a Markov language by number: each a pure function of seed and number."""

    def __init__(self, truth: MarkovTruth, *, seq_len: int, seed: int, split: str):
        """Reads rows of `seq_len` tokens; `seed` and `split` draw them."""
        self.truth = truth
        self._seq_len = seq_len
        key = np.array([(seed & MASK_64) ^ zlib.crc32(split.encode())], np.uint64)
        self._key = mix(key + _GOLDEN)
        cumulative_CV = np.cumsum(truth.probabilities_CV, axis=-1)
        # It ends in exactly 1, which is above every draw.
        self._cumulative_CV = cumulative_CV / cumulative_CV[:, -1:]

    @property
    def rows_per_epoch(self) -> None:
        """The stream has no end."""
        return None

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the probabilities and of the key of the draws."""
        digest = hashlib.sha256(np.ascontiguousarray(self.truth.probabilities_CV).data)
        digest.update(self._key.tobytes())
        return digest.hexdigest()

    def read(self, numbers: np.ndarray) -> Batch:
        """Returns the rows with `numbers`, int64 [B], as numpy arrays."""
        draws_BL = self._draws(np.asarray(numbers))
        targets_BL = np.empty(draws_BL.shape, np.int32)
        contexts_B = np.full(len(draws_BL), self.truth.first_context, np.int64)
        for column, draws_B in enumerate(draws_BL.T):
            targets_BL[:, column] = self.draw(contexts_B, draws_B)
            contexts_B = self.truth.following(contexts_B, targets_BL[:, column])
        tokens_BL = np.full_like(targets_BL, self.truth.begin_id)
        tokens_BL[:, 1:] = targets_BL[:, :-1]
        positions_BL = np.broadcast_to(
            np.arange(self._seq_len, dtype=np.int32), targets_BL.shape
        )
        fields: dict[str, Any] = {
            "tokens_BL": tokens_BL,
            "targets_BL": targets_BL,
            "weights_BL": np.ones(targets_BL.shape, np.float32),
            "segments_BL": np.ones_like(targets_BL),
            "positions_BL": positions_BL,
        }
        return Batch(**fields)

    def draw(self, contexts: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Returns next tokens for numbers in [0, 1), int32, by inverse transform."""
        below = self._cumulative_CV[contexts] <= draws[..., None]
        return below.sum(axis=-1).astype(np.int32)

    def _draws(self, numbers: np.ndarray) -> np.ndarray:
        """Returns numbers in [0, 1) for each row and column, float64 [B, L]."""
        rows_B1 = mix(self._key ^ mix(numbers.astype(np.uint64) + _GOLDEN))[:, None]
        columns_1L = np.arange(1, self._seq_len + 1, dtype=np.uint64)[None] * _GOLDEN
        return (mix(rows_B1 + columns_1L) >> np.uint64(11)) * 2.0**-53
