"""Converts between our vocabularies and SeqIO's.

Dimensions: N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from salt_jax.data.vocabulary import Vocabulary


class TokenizersVocabulary(seqio.Vocabulary):
    """A vocabulary of the tokenizers library, for the features of SeqIO tasks."""

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        self.vocabulary = vocabulary

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TokenizersVocabulary)
            and self.vocabulary.fingerprint == other.vocabulary.fingerprint
        )

    def __hash__(self) -> int:
        return hash(self.vocabulary.fingerprint)

    @property
    def bos_id(self) -> int:
        """The token that a model reads before the first token."""
        return self.vocabulary.begin_id

    @property
    def eos_id(self) -> int:
        """The token that ends a text."""
        return self.vocabulary.eos_id

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return self.vocabulary.pad_id

    @property
    def unk_id(self) -> None:
        """None: the tokenizer handles unknown text itself."""

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.size

    def _encode(self, s: str) -> Sequence[int]:
        return self.vocabulary.encode(s)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        tokens_N = tf.numpy_function(self._encode_bytes, [s], tf.int32)
        tokens_N.set_shape([None])
        return tokens_N

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        texts = tf.numpy_function(self._decode_rows, [ids], tf.string)
        texts.set_shape(ids.shape[:-1])
        return texts

    def _encode_bytes(self, text: bytes | np.ndarray) -> np.ndarray:
        # TensorFlow passes bytes in a graph, and a 0-dimensional array outside.
        text = text if isinstance(text, bytes) else text.item()
        return self.vocabulary.encode_array(text.decode())

    def _decode_rows(self, ids: np.ndarray) -> np.ndarray:
        rows = ids.reshape(-1, ids.shape[-1])
        texts = [self.vocabulary.decode(row).encode() for row in rows]
        return np.array(texts, object).reshape(ids.shape[:-1])


def seqio_vocabulary(vocabulary: Vocabulary) -> seqio.Vocabulary:
    """Returns the SeqIO vocabulary with the same tokens."""
    if vocabulary.path.suffix == ".json":
        return TokenizersVocabulary(vocabulary)
    return seqio.SentencePieceVocabulary(str(vocabulary.path))


def file_of(theirs: seqio.Vocabulary) -> str | None:
    """Returns the file of a SeqIO vocabulary that `Vocabulary` can open, or None."""
    if isinstance(theirs, TokenizersVocabulary):
        return str(theirs.vocabulary.path)
    return getattr(theirs, "sentencepiece_model_file", None)
