"""The one vocabulary that student, teacher and scorer share."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import sentencepiece
from etils import epath

from salt_jax.data import embedded

# SentencePiece writes a space so, and decodes it as one wherever it is from.
_SPACE = "\u2581"
# Longer texts are encoded in pieces: time and memory grow faster than the length.
_PIECE_CHARACTERS = 1 << 16
# What normalisers and dummy prefixes change: of width, of accents, of space.
_PROBES = (
    "a",
    "  b ",
    "\n\t\r\n",
    "\0",
    "\ufb01\uff21e\u0301",
    "\u2603\U0010ffff",
    "A",
)


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
        return self.encode_array(text).tolist()

    def encode_array(self, text: str) -> np.ndarray:
        """Returns the same as int32 [N], which is faster for long texts."""
        if not self.is_lossless:
            return self.processor.encode(text, return_type="numpy")
        if len(text) <= _PIECE_CHARACTERS and _SPACE not in text:
            return self.processor.encode(text, return_type="numpy")
        pieces = [np.zeros(0, np.int32)]
        for index, part in enumerate(text.split(_SPACE)):
            if index:
                pieces.append(np.array(self._bytes_of(_SPACE), np.int32))
            for piece in _pieces(part):
                pieces.append(self.processor.encode(piece, return_type="numpy"))
        return np.concatenate(pieces)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of `ids`; control pieces, ends and padding have none."""
        return self.processor.decode([int(token) for token in ids])

    @functools.cached_property
    def is_lossless(self) -> bool:
        """Whether the tokens of any texts, put together, decode to these texts.

        It is asked of the model itself: one that normalises, adds a space at the
        beginning, or has no pieces for bytes, is not.
        """
        encode = self.processor.encode
        tokens = [token for probe in _PROBES for token in encode(probe)]
        marker = self._bytes_of(_SPACE)
        if self.processor.unk_id() in marker:
            return False
        return self.decode([*marker, *tokens, *marker]) == "".join(
            [_SPACE, *_PROBES, _SPACE]
        )

    def piece_id(self, name: str) -> int:
        """Returns the token of a piece, such as the sentinel "<extra_id_0>".

        Raises:
          ValueError: the vocabulary has no such piece.
        """
        token = self.processor.piece_to_id(name)
        if self.processor.id_to_piece(token) != name:
            raise ValueError(
                f"The vocabulary {self.path} has no piece {name!r}; add it with "
                "Vocabulary.add_control_pieces, or train one with --control_symbols."
            )
        return token

    def add_control_pieces(self, names: Sequence[str]) -> bytes:
        """Returns the model of this vocabulary with more control pieces at its end.

        No text is encoded to a control piece, not even its name. The other tokens
        stay as they are.

        Raises:
          ValueError: the vocabulary has such a piece, or a name is given twice.
        """
        for index, name in enumerate(names):
            known = self.processor.piece_to_id(name)
            if name in names[:index] or self.processor.id_to_piece(known) == name:
                raise ValueError(f"{self.path} would have the piece {name!r} twice.")
        return self.path.read_bytes() + b"".join(map(_control_piece, names))

    def check_model(self, num_predicted: int) -> None:
        """Refuses a model that predicts fewer tokens than there are.

        Raises:
          ValueError: it does; the loss of the others would not be a number.
        """
        if self.size > num_predicted:
            raise ValueError(
                f"The vocabulary {self.path} has {self.size:,} tokens, and the model "
                f"predicts vocab_size={num_predicted:,}: raise it to at least as many."
            )

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
        return len(processor.id_to_piece(token).replace(_SPACE, " ").encode())

    def _bytes_of(self, text: str) -> list[int]:
        """Returns the pieces of single bytes that spell `text`."""
        return [self.processor.piece_to_id(f"<0x{x:02X}>") for x in text.encode()]


def _pieces(text: str) -> Iterator[str]:
    """Yields `text` in pieces, each but the first beginning with a space if it can."""
    begin = 0
    while len(text) - begin > _PIECE_CHARACTERS:
        window = text[begin : begin + _PIECE_CHARACTERS]
        length = len(window.rpartition(" ")[0].rstrip(" ")) or len(window)
        yield window[:length]
        begin += length
    yield text[begin:]


def _control_piece(name: str) -> bytes:
    """Returns a control piece as bytes that can be put after those of a model.

    A model is a protocol buffer, in which a field's values are added up wherever
    they stand: `repeated SentencePiece pieces = 1`, with `string piece = 1`,
    `float score = 2` and `Type type = 3`, of which CONTROL is 3.
    """
    text = name.encode()
    piece = b"\x0a" + _varint(len(text)) + text + b"\x15" + bytes(4) + b"\x18\x03"
    return b"\x0a" + _varint(len(piece)) + piece


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
