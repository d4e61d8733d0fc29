"""Trains a SentencePiece vocabulary on the text of a corpus.

The vocabulary is byte-pair encoding with a piece for each byte and without any
normalization, so every text decodes to itself. Digits are tokens of their own, and no
token spans a line break. Padding is 0, the end of a text is 1, unknown is 2; there is
no begin token.
"""

from __future__ import annotations

import dataclasses
import io
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import sentencepiece
from absl import logging
from etils import epath

from salt_jax.data.corpora.document import Document, Part
from salt_jax.data.sentencepiece_vocabulary import (
    PIECE_CHARACTERS,
    SentencePieceCodec,
    in_pieces,
)
from salt_jax.files.writing import write_file

_REPORT_EVERY = 100_000  # Documents.
_TOO_LARGE = re.compile(r"too high \(\d+\)\. Please set it to a value <= (\d+)")
_TOO_SMALL = re.compile(r"required_chars\. \d+ vs (\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabularyTraining:
    """Settings for training a vocabulary on the lines of a corpus."""

    size: int  # Tokens, control pieces included.
    control_pieces: Sequence[str] = ()  # Sentinels and mode tokens: the last tokens.
    max_lines: int = 5_000_000  # Held in memory; of a larger corpus, a random sample.
    seed: int = 0  # Of the sample.

    def __post_init__(self):
        if self.max_lines < 1:
            raise ValueError(f"max_lines must be at least 1, got {self.max_lines}.")
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}.")
        if len(set(self.control_pieces)) < len(self.control_pieces):
            raise ValueError(
                f"control_pieces must differ, got {list(self.control_pieces)}."
            )

    def run(
        self, parts: Sequence[Part], progress: Callable[[str], None] = logging.info
    ) -> bytes:
        """Returns the model file of a vocabulary trained on a corpus.

        The file depends on the corpus and on the fields of this class, not on the
        machine.

        Args:
          parts: The corpus, which is read once, as a stream.
          progress: Receives a line of text from time to time.

        Raises:
          ValueError: the corpus is damaged or has no text, or its text does not
            support `size` tokens; the message has the limit.
        """
        lines = sample(_lines(parts, progress), self.max_lines, self.seed)
        progress(f"Training {self.size:,} tokens on {len(lines):,} lines.")
        contents = self._train(lines)
        codec = SentencePieceCodec.of(contents, epath.Path("the trained vocabulary"))
        return codec.with_control_pieces(contents, self.control_pieces)

    def _train(self, lines: Sequence[str]) -> bytes:
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=model,
                model_type="bpe",
                vocab_size=max(self.size - len(self.control_pieces), 1),
                character_coverage=0.9999,  # Rarer characters are spelled in bytes.
                byte_fallback=True,
                split_digits=True,
                allow_whitespace_only_pieces=True,
                user_defined_symbols=["\n"],
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                max_sentence_length=4 * PIECE_CHARACTERS,  # In bytes of UTF-8.
                pad_id=0,
                eos_id=1,
                unk_id=2,
                bos_id=-1,
                num_threads=16,  # The file records it, so it is the same everywhere.
                minloglevel=3,
            )
        except RuntimeError as error:
            raise ValueError(self._refusal(str(error), len(lines))) from error
        return model.getvalue()

    def _refusal(self, message: str, num_lines: int) -> str:
        added = len(self.control_pieces)
        if found := _TOO_LARGE.search(message):
            return (
                f"{num_lines:,} lines of text give at most {int(found[1]) + added:,} "
                f"tokens, got size={self.size:,}: lower the size or add text."
            )
        if found := _TOO_SMALL.search(message):
            return (
                f"Bytes, characters and control pieces alone are "
                f"{int(found[1]) + added:,} tokens, got size={self.size:,}: raise the "
                "size."
            )
        return f"SentencePiece cannot train on this text: {message}"


def sample(lines: Iterable[str], count: int, seed: int) -> list[str]:
    """Returns all lines, or `count` of them drawn with equal chance from a stream."""
    draw = random.Random(seed)
    kept: list[str] = []
    for index, line in enumerate(lines):
        if index < count:
            kept.append(line)
        elif (place := draw.randrange(index + 1)) < count:
            kept[place] = line
    return kept


def sentinels(count: int) -> list[str]:
    """Returns the names of `count` sentinels, as T5 and UL2 have them."""
    return [f"<extra_id_{index}>" for index in range(count)]


def check_new(path: epath.Path) -> None:
    """Refuses to replace a vocabulary.

    Raises:
      ValueError: there is a file at `path`.
    """
    if path.exists():
        raise ValueError(
            f"{path} exists, and prepared text may depend on it: name another output."
        )


def write_vocabulary(path: epath.Path, contents: bytes) -> None:
    """Writes a vocabulary's file, whole or not at all.

    Raises:
      ValueError: there is a file at `path`.
    """
    check_new(path)
    write_file(path, contents)


def _lines(parts: Sequence[Part], progress: Callable[[str], None]) -> Iterator[str]:
    """Yields the lines of all documents, very long ones in pieces.

    Raises:
      ValueError: there is no text.
    """
    num_read, num_documents, first_bad = 0, 0, ""
    for name, number, found in _records(parts):
        num_read += 1
        if num_read % _REPORT_EVERY == 0:
            progress(f"{num_read:,} documents read.")
        if isinstance(found, Document):
            num_documents += bool(found.text)
            for line in found.text.split("\n"):
                yield from filter(None, in_pieces(line))
        else:
            first_bad = first_bad or f"; the first bad one is {name}:{number}: {found}"
    if not num_documents:
        raise ValueError(f"No text in {num_read:,} records{first_bad}.")
    progress(f"{num_documents:,} of {num_read:,} records have text{first_bad}.")


def _records(parts: Sequence[Part]) -> Iterator[tuple[str, int, Document | str]]:
    for part in parts:
        for block in part.blocks():
            for number, found in block.documents():
                yield part.name, number, found
