"""Vocabularies that are SentencePiece models."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import sentencepiece
from etils import epath
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from salt_jax.data.tokenizer_json import MOST_GROWTH, charsmap_growth

_FORMAT: Any = sentencepiece_model_pb2  # Its classes are made when it is imported.

# SentencePiece's symbol for a space. It decodes to a space even if the text had it.
SPACE = "\u2581"
# Longer texts are split: SentencePiece's time and memory grow superlinearly.
PIECE_CHARACTERS = 1 << 16
# Texts that normalizers and dummy prefixes change: widths, accents, spaces.
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
        """Returns the codec of a model file; `path` is for messages.

        Raises:
          ValueError: it is not a SentencePiece model, is cut off, or has no eos token.
        """
        processor = sentencepiece.SentencePieceProcessor()
        try:
            _check(contents)
            processor.LoadFromSerializedProto(contents)
            for token in range(processor.vocab_size()):
                processor.id_to_piece(token)  # Raises unless it is UTF-8.
        except (RuntimeError, DecodeError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path} is not a SentencePiece model, or is damaged ({said})."
            ) from error
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
        """The model's bos token; 0 if it has none, as in SeqIO."""
        return max(self.processor.bos_id(), 0)

    @property
    def eos_id(self) -> int:
        """The model's eos token."""
        return self.processor.eos_id()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The eos token; a SentencePiece model has no other end."""
        return (self.eos_id,)

    @property
    def pad_id(self) -> int:
        """The model's pad token, or the begin token; padding never affects results."""
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
        """Whether concatenated tokens of any texts decode to the concatenated texts.

        Probes the model: it is not lossless if it normalizes, adds a space at the
        beginning, or lacks byte pieces.
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
        """Returns the token id of a piece, or None if there is no such piece."""
        token = self.processor.piece_to_id(name)
        return token if self.processor.id_to_piece(token) == name else None

    def with_control_pieces(self, contents: bytes, names: Sequence[str]) -> bytes:
        """Returns the model file `contents` with control pieces appended."""
        return contents + b"".join(map(_control_piece, names))

    def byte_lengths(self) -> np.ndarray:
        """Returns the number of UTF-8 bytes of each token, int32 [size]."""
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
        """Returns the byte pieces that spell `text`."""
        return [self.processor.piece_to_id(f"<0x{x:02X}>") for x in text.encode()]


def _check(contents: bytes) -> None:
    """Raises ValueError if a model is cut off, or makes texts many times as long."""
    model = _FORMAT.ModelProto.FromString(contents)
    if not (model.HasField("trainer_spec") and model.HasField("normalizer_spec")):
        raise ValueError("it is cut off, or empty")
    growth = charsmap_growth(model.normalizer_spec.precompiled_charsmap)
    if growth > MOST_GROWTH:
        raise ValueError(f"a text may become {growth:,.0f} times as long")


def in_pieces(text: str) -> Iterator[str]:
    """Splits `text` into pieces, if possible before spaces."""
    begin = 0
    while len(text) - begin > PIECE_CHARACTERS:
        window = text[begin : begin + PIECE_CHARACTERS]
        length = len(window.rpartition(" ")[0].rstrip(" ")) or len(window)
        yield window[:length]
        begin += length
    yield text[begin:]


def _control_piece(name: str) -> bytes:
    """Returns a control piece as bytes to append to a model file.

    A model is a protocol buffer, where values of a repeated field may stand anywhere:
    `repeated SentencePiece pieces = 1`, with `string piece = 1`, `float score = 2` and
    `Type type = 3`, where CONTROL is 3.
    """
    text = name.encode()
    piece = b"\x0a" + _varint(len(text)) + text + b"\x15" + bytes(4) + b"\x18\x03"
    return b"\x0a" + _varint(len(piece)) + piece


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
