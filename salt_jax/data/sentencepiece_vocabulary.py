"""The tokens of a SentencePiece model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import sentencepiece
from etils import epath

# SentencePiece writes a space so, and decodes it as one wherever it is from.
SPACE = "\u2581"
# Longer texts are encoded in pieces: time and memory grow faster than the length.
PIECE_CHARACTERS = 1 << 16
# What normalizers and dummy prefixes change: of width, of accents, of space.
PROBES = (
    "a",
    "  b ",
    "\n\t\r\n",
    "\0",
    "\ufb01\uff21e\u0301",
    "\u2603\U0010ffff",
    "A",
)


@dataclasses.dataclass(frozen=True)
class SentencePieceCodec:
    """Encodes and decodes text with a SentencePiece model."""

    processor: sentencepiece.SentencePieceProcessor

    @classmethod
    def of(cls, contents: bytes, path: epath.Path) -> SentencePieceCodec:
        """Returns the codec of a model's file; `path` is for messages.

        Raises:
          ValueError: it is no SentencePiece model, or has no end.
        """
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(contents)
        except RuntimeError as error:
            raise ValueError(f"{path} is not a SentencePiece model.") from error
        if processor.eos_id() < 0:
            raise ValueError(
                f"The vocabulary {path} has no eos token, which ends each document: "
                "train one that has, for example with the command vocabulary."
            )
        return cls(processor)

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self.processor.vocab_size()

    @property
    def begin_id(self) -> int:
        """The model's bos token; 0, as SeqIO has it, in a model that has none."""
        return max(self.processor.bos_id(), 0)

    @property
    def eos_id(self) -> int:
        """The model's eos token."""
        return self.processor.eos_id()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The same: a SentencePiece model names no other."""
        return (self.eos_id,)

    @property
    def pad_id(self) -> int:
        """The model's padding; padding is never read, so without one, any will do."""
        pad_id = self.processor.pad_id()
        return self.begin_id if pad_id < 0 else pad_id

    def encode_array(self, text: str) -> np.ndarray:
        """Returns the tokens of `text` as int32 [N]."""
        if not self.is_lossless:
            return self.processor.encode(text, return_type="numpy")
        if len(text) <= PIECE_CHARACTERS and SPACE not in text:
            return self.processor.encode(text, return_type="numpy")
        pieces = [np.zeros(0, np.int32)]
        for index, part in enumerate(text.split(SPACE)):
            if index:
                pieces.append(np.array(self._bytes_of(SPACE), np.int32))
            for piece in in_pieces(part):
                pieces.append(self.processor.encode(piece, return_type="numpy"))
        return np.concatenate(pieces)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; control pieces have none."""
        return self.processor.decode(list(ids))

    @functools.cached_property
    def is_lossless(self) -> bool:
        """Whether the tokens of any texts, put together, decode to these texts.

        It is asked of the model itself: one that normalizes, adds a space at the
        beginning, or has no pieces for bytes, is not.
        """
        encode = self.processor.encode
        tokens = [token for probe in PROBES for token in encode(probe)]
        marker = self._bytes_of(SPACE)
        if self.processor.unk_id() in marker:
            return False
        return self.decode([*marker, *tokens, *marker]) == "".join(
            [SPACE, *PROBES, SPACE]
        )

    def find(self, name: str) -> int | None:
        """Returns the token of a piece; None if there is no such piece."""
        token = self.processor.piece_to_id(name)
        return token if self.processor.id_to_piece(token) == name else None

    def with_control_pieces(self, contents: bytes, names: Sequence[str]) -> bytes:
        """Returns the file `contents` of this model with control pieces at its end."""
        return contents + b"".join(map(_control_piece, names))

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
        return len(processor.id_to_piece(token).replace(SPACE, " ").encode())

    def _bytes_of(self, text: str) -> list[int]:
        """Returns the pieces of single bytes that spell `text`."""
        return [self.processor.piece_to_id(f"<0x{x:02X}>") for x in text.encode()]


def in_pieces(text: str) -> Iterator[str]:
    """Yields `text` in pieces, each but the first beginning with a space if it can."""
    begin = 0
    while len(text) - begin > PIECE_CHARACTERS:
        window = text[begin : begin + PIECE_CHARACTERS]
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
