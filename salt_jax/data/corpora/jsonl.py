"""Files with one JSON object per line, plain or compressed (`.zst`, `.gz`)."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

import zstandard
from etils import epath

from salt_jax.data.corpora.document import Document, Fields, FilePart

SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz")


@dataclasses.dataclass(frozen=True)
class JsonLines(FilePart):
    """A file of JSON lines."""

    block_bytes: int = 1 << 17  # How much is read at a time.

    def blocks(self) -> Iterator[Lines]:
        """Yields the lines in blocks.

        Raises:
          ValueError: the file is compressed, and damaged or truncated.
        """
        for number, lines in read_lines(self.path, block_bytes=self.block_bytes):
            yield Lines(number, lines, self.fields)


@dataclasses.dataclass(frozen=True)
class Lines:
    """Consecutive lines of a file, still as bytes."""

    first_number: int  # The number of the first line, from 1.
    lines: Sequence[bytes]
    fields: Fields

    def documents(self) -> Iterator[tuple[int, Document | str]]:
        """Yields each line's number, and its document or a description of the error."""
        for number, line in enumerate(self.lines, self.first_number):
            try:
                yield number, parse_document(line, self.fields)
            except ValueError as error:
                yield number, str(error)


def parse_document(line: bytes, fields: Fields = Fields()) -> Document:
    """Returns the document on a line.

    Raises:
      ValueError: the line is malformed; the message says why in a few words.
    """
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    return fields.document(record)


def read_lines(
    path: epath.Path, *, block_bytes: int
) -> Iterator[tuple[int, list[bytes]]]:
    """Yields blocks of about `block_bytes`: the first line's number, and the lines.

    Raises:
      ValueError: the file is compressed, and damaged or truncated.
    """
    number = 1
    begun: list[bytes] = []  # Of a line whose end has not been read yet.
    for block in _read_bytes(path, block_bytes):
        first, *others = block.split(b"\n")
        begun.append(first)
        if others:
            lines = [b"".join(begun), *others[:-1]]
            begun = [others[-1]]
            yield number, lines
            number += len(lines)
    if rest := b"".join(begun):
        yield number, [rest]


def _read_bytes(path: epath.Path, block_bytes: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            if path.name.endswith((".zst", ".gz")) and not file.read(1):
                raise EOFError  # Even empty text has some bytes when compressed.
            file.seek(0)
            if path.name.endswith(".zst"):
                yield from _decompress_zstd(file, block_bytes)
            elif path.name.endswith(".gz"):
                yield from _blocks(gzip.GzipFile(fileobj=file), block_bytes)
            else:
                yield from _blocks(file, block_bytes)
    except EOFError as error:
        raise ValueError(f"{path} is truncated: fetch or make it again.") from error
    except (zstandard.ZstdError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error


def _blocks(file: IO[bytes] | gzip.GzipFile, block_bytes: int) -> Iterator[bytes]:
    while block := file.read(block_bytes):
        yield block


def _decompress_zstd(file: IO[bytes], block_bytes: int) -> Iterator[bytes]:
    """Yields the contents of all frames, and raises EOFError if the last is partial.

    The reader of the zstandard library would accept a partial frame.
    """
    frame = None
    for block in _blocks(file, block_bytes):
        while block:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(block)
            block, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError
