"""The one vocabulary that student, teacher and scorer share."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import sentencepiece
from etils import epath

from salt_jax.data import embedded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A SentencePiece model, known by the contents of its file."""

    path: epath.Path
    fingerprint: str  # The SHA-256 of the file, in hexadecimal.
    processor: sentencepiece.SentencePieceProcessor = dataclasses.field(
        repr=False, compare=False
    )

    @classmethod
    def open(cls, path: epath.PathLike) -> Vocabulary:
        """Reads a SentencePiece model, on disk or "embedded:tokenizer/NAME.model".

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is no SentencePiece model, or has no end or no padding.
        """
        path = embedded.resolve(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"No vocabulary at {path}: give the path of a SentencePiece model."
            )
        contents = path.read_bytes()
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(contents)
        except RuntimeError as error:
            raise ValueError(f"{path} is not a SentencePiece model.") from error
        for name, token in [("pad", processor.pad_id()), ("eos", processor.eos_id())]:
            if token < 0:
                raise ValueError(
                    f"The vocabulary {path} has no {name} token: train it with "
                    f"--{name}_id."
                )
        fingerprint = hashlib.sha256(contents).hexdigest()
        return cls(path=path, fingerprint=fingerprint, processor=processor)

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self.processor.vocab_size()

    @property
    def pad_id(self) -> int:
        """The token that fills the end of the last sequence."""
        return self.processor.pad_id()

    @property
    def eos_id(self) -> int:
        """The token that ends each document."""
        return self.processor.eos_id()

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of `text`, without one that ends it."""
        return self.processor.encode(text)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of `ids`; tokens that end or pad have none."""
        return self.processor.decode([int(token) for token in ids])

    def byte_lengths(self) -> np.ndarray:
        """Returns how many bytes of UTF-8 each token stands for, int32 [size]."""
        lengths = [self._byte_length(token) for token in range(self.size)]
        return np.array(lengths, np.int32)

    def _byte_length(self, token: int) -> int:
        processor = self.processor
        if processor.is_control(token):
            return 0
        if processor.is_byte(token):
            return 1
        # SentencePiece writes a space as U+2581.
        return len(processor.id_to_piece(token).replace("\u2581", " ").encode())
