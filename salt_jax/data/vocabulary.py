"""The vocabulary, which student, teacher and scorer share."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from absl import logging
from etils import epath

from salt_jax.data import embedded
from salt_jax.data.sentencepiece_vocabulary import SentencePieceCodec
from salt_jax.data.tokenizers_vocabulary import TokenizersCodec


class Codec(Protocol):
    """The interface of both kinds of vocabulary. Thread-safe."""

    @property
    def size(self) -> int:
        """The number of tokens: one more than the largest."""

    @property
    def begin_id(self) -> int:
        """The token that a model reads before the first token of a document."""

    @property
    def eos_id(self) -> int:
        """The token that ends each document."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end generated text, `eos_id` first."""

    @property
    def pad_id(self) -> int:
        """The padding token."""

    @property
    def is_lossless(self) -> bool:
        """Whether concatenated tokens of any texts decode to the concatenated texts."""

    def encode_array(self, text: str) -> np.ndarray:
        """Returns the tokens of `text` as int32 [N]."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; control pieces decode to nothing."""

    def find(self, name: str) -> int | None:
        """Returns the token id of a piece, or None if there is no such piece."""

    def with_control_pieces(self, contents: bytes, names: Sequence[str]) -> bytes:
        """Returns the file `contents` with control pieces appended."""

    def byte_lengths(self) -> np.ndarray:
        """Returns the number of UTF-8 bytes of each token, int32 [size]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A vocabulary of either kind, identified by the contents of its file."""

    path: epath.Path
    fingerprint: str  # The SHA-256 of the file, in hexadecimal.
    codec: Codec = dataclasses.field(repr=False, compare=False)

    @classmethod
    def open(cls, path: epath.PathLike) -> Vocabulary:
        """Reads a vocabulary from disk, or from "embedded:tokenizer/NAME.model".

        A .json file is read by the tokenizers library, and must also name the begin,
        end and pad tokens. Any other file is a SentencePiece model.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is malformed, or names no end token.
        """
        path = embedded.resolve(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"No vocabulary at {path}: give the path of a SentencePiece model, or "
                "of the vocabulary.json of an export."
            )
        contents = path.read_bytes()
        kind = TokenizersCodec if path.suffix == ".json" else SentencePieceCodec
        fingerprint = hashlib.sha256(contents).hexdigest()
        return cls(path=path, fingerprint=fingerprint, codec=kind.of(contents, path))

    def __reduce__(self) -> tuple:
        """Pickles the path, and not the megabytes of the file."""
        return Vocabulary.open, (self.path,)

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self.codec.size

    @property
    def begin_id(self) -> int:
        """The token that a model reads before the first token of a document."""
        return self.codec.begin_id

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return self.codec.pad_id

    @property
    def eos_id(self) -> int:
        """The token that ends each document."""
        return self.codec.eos_id

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end what a model writes, `eos_id` first.

        A chat model has a token that ends its turn, besides the one that ends a
        document.
        """
        return self.codec.end_ids

    @property
    def is_lossless(self) -> bool:
        """Whether concatenated tokens of any texts decode to the concatenated texts."""
        return self.codec.is_lossless

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of `text`, without begin and end tokens.

        The name of a control piece in a text is encoded like any other text.
        """
        return self.codec.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """Returns the tokens of `text` as int32 [N]; faster than `encode`."""
        return self.codec.encode_array(text)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of `ids`.

        Control pieces, end tokens, padding, and ids beyond the vocabulary (from a model
        whose embedding is padded) decode to nothing.
        """
        size = self.size
        return self.codec.decode([int(token) for token in ids if token < size])

    def piece_id(self, name: str) -> int:
        """Returns the token id of a piece, such as the sentinel "<extra_id_0>".

        Raises:
          ValueError: the vocabulary has no such piece.
        """
        token = self.codec.find(name)
        if token is None:
            raise ValueError(
                f"The vocabulary {self.path} has no piece {name!r}: add it with the "
                "command vocabulary, options --from, --sentinels and --mode_tokens."
            )
        return token

    def add_control_pieces(self, names: Sequence[str]) -> bytes:
        """Returns the file of this vocabulary with control pieces appended.

        No text encodes to a control piece, not even its name. Other tokens do not
        change.

        Raises:
          ValueError: a piece already exists, or a name is given twice.
        """
        for index, name in enumerate(names):
            if name in names[:index] or self.codec.find(name) is not None:
                raise ValueError(f"{self.path} would have the piece {name!r} twice.")
        return self.codec.with_control_pieces(self.path.read_bytes(), names)

    def check_model(self, num_predicted: int) -> None:
        """Checks that a model predicts all tokens of the vocabulary.

        Raises:
          ValueError: it predicts fewer; the loss of the others would be undefined.
        """
        if self.size > num_predicted:
            raise ValueError(
                f"The vocabulary {self.path} has {self.size:,} tokens, and the model "
                f"predicts vocab_size={num_predicted:,}: raise it to at least as many, "
                "or give the vocabulary that the model was trained with."
            )
        if self.size < num_predicted:
            logging.info(
                "The model predicts %d tokens and %s has %d: the rest is padding.",
                num_predicted,
                self.path,
                self.size,
            )

    def check_real_size(self, real_vocab_size: int | None) -> None:
        """Checks a number of tokens that an experiment gives for the vocabulary.

        Raises:
          ValueError: the vocabulary has another number; None is not checked.
        """
        if real_vocab_size not in (None, self.size):
            raise ValueError(
                f"real_vocab_size={real_vocab_size}, but the vocabulary {self.path} "
                f"has {self.size} tokens: give that number."
            )

    def byte_lengths(self) -> np.ndarray:
        """Returns how many bytes of UTF-8 each token stands for, int32 [size].

        Raises:
          ValueError: the vocabulary has an unsupported decoder.
        """
        return self.codec.byte_lengths()
