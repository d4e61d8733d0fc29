"""Files with one JSON object per line, plain or compressed (`.zst`, `.gz`)."""

from __future__ import annotations

import codecs
import dataclasses
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

import zstandard
from etils import epath

from salt_jax.data.corpora.document import (
    Document,
    Fields,
    FilePart,
    Limits,
    twice,
)

SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz")
# Compressed bytes at a time: one of them can stand for 32 KiB.
_ZSTD_BYTES = 1 << 10
_LONGEST_WINDOW = 1 << 31  # Bytes; the limit of zstd.


@dataclasses.dataclass(frozen=True)
class JsonLines(FilePart):
    """A file of JSON lines."""

    block_bytes: int = 1 << 17  # How much is read at a time.

    def blocks(self) -> Iterator[Lines]:
        """Yields the lines in blocks.

        Raises:
          ValueError: the file is compressed, and damaged or truncated; or it is
            beyond a limit.
        """
        blocks = read_lines(self.path, block_bytes=self.block_bytes, limits=self.limits)
        for number, lines in blocks:
            yield Lines(number, lines, self.fields)


@dataclasses.dataclass(frozen=True)
class Lines:
    """Consecutive lines of a file, still as bytes."""

    first_number: int  # The number of the first line, from 1.
    lines: Sequence[bytes]
    fields: Fields

    def documents(self) -> Iterator[tuple[int, Document | str]]:
        """Yields each line's number, and its document or a description of the error.

        Blank lines are no documents.
        """
        for number, line in enumerate(self.lines, self.first_number):
            if not line or line.isspace():
                continue
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
    path: epath.Path, *, block_bytes: int, limits: Limits = Limits()
) -> Iterator[tuple[int, list[bytes]]]:
    """Yields blocks of about `block_bytes`: the first line's number, and the lines.

    A byte order mark at the beginning of the file is dropped.

    Raises:
      ValueError: the file is compressed, and damaged or truncated; or it is beyond a
        limit.
    """
    number = 1
    begun: list[bytes] = []  # Of a line whose end has not been read yet.
    num_bytes = 0  # Since the last line that was not blank.
    for block in _read_bytes(path, block_bytes, limits):
        first, *others = block.split(b"\n")
        begun.append(first)
        num_bytes += len(block)
        lines = []
        if others:
            lines = _marked(number, [b"".join(begun), *others[:-1]])
            begun = [others[-1]]
        if any(line and not line.isspace() for line in lines):
            num_bytes = len(begun[0])
        if max([num_bytes, *map(len, lines)]) > limits.max_document_bytes:
            raise ValueError(
                f"{path}:{number} is longer than limits.max_document_bytes="
                f"{limits.max_document_bytes:,}: raise it if such a document is meant."
            )
        if lines:
            yield number, lines
            number += len(lines)
    if rest := b"".join(begun):
        yield number, _marked(number, [rest])


def _marked(number: int, lines: list[bytes]) -> list[bytes]:
    """Returns lines without the byte order mark that a file may begin with."""
    if number == 1:
        lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
    return lines


def _read_bytes(path: epath.Path, block_bytes: int, limits: Limits) -> Iterator[bytes]:
    """Yields the contents in blocks of at most `block_bytes`."""
    try:
        with path.open("rb") as file:
            if path.name.endswith((".zst", ".gz")) and not file.read(1):
                raise EOFError  # Even empty text has some bytes when compressed.
            file.seek(0)
            if path.name.endswith(".zst"):
                yield from _decompress_zstd(file, block_bytes, limits)
            elif path.name.endswith(".gz"):
                yield from _blocks(gzip.GzipFile(fileobj=file), block_bytes)
            else:
                yield from _blocks(file, block_bytes)
    except EOFError as error:
        raise ValueError(f"{path} is truncated: fetch or make it again.") from error
    except (zstandard.ZstdError, gzip.BadGzipFile, zlib.error) as error:
        if "requires too much memory" in str(error):
            raise ValueError(
                f"{path} needs more memory to be decompressed than "
                f"limits.max_window_bytes={limits.max_window_bytes:,}: raise it, to "
                f"{_LONGEST_WINDOW} for a file that zstd --long=31 made."
            ) from error
        raise ValueError(f"{path} is damaged: {error}.") from error


def _blocks(file: IO[bytes] | gzip.GzipFile, block_bytes: int) -> Iterator[bytes]:
    while block := file.read(block_bytes):
        yield block


def _decompress_zstd(
    file: IO[bytes], block_bytes: int, limits: Limits
) -> Iterator[bytes]:
    """Yields the contents of all frames, and raises EOFError if the last is partial.

    The reader of the zstandard library would accept a partial frame.
    """
    window = min(limits.max_window_bytes, _LONGEST_WINDOW)
    decompressor = zstandard.ZstdDecompressor(max_window_size=window)
    frame = None
    for block in _blocks(file, _ZSTD_BYTES):
        while block:
            frame = frame or decompressor.decompressobj()
            found = frame.decompress(block)
            for begin in range(0, len(found), block_bytes):
                yield found[begin : begin + block_bytes]
            block, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError


def split_files(root: epath.Path, split: str) -> list[epath.Path]:
    """Returns the files of a split: `SPLIT.jsonl`, or `SPLIT/*.jsonl` by name.

    Raises:
      ValueError: text is there twice, such as a file and the archive it came from.
    """
    whole = [root / f"{split}{suffix}" for suffix in SUFFIXES]
    whole = [file for file in whole if file.is_file()]
    inside: list[epath.Path] = []
    if (root / split).is_dir():
        inside = [x for x in (root / split).iterdir() if x.name.endswith(SUFFIXES)]
        inside.sort(key=lambda file: file.name)
    same_text: dict[str, list[epath.Path]] = {"": [*whole, *inside[:1]]}
    for file in inside:
        same_text.setdefault(file.name.rpartition(".jsonl")[0], []).append(file)
    for files in same_text.values():
        if len(files) > 1:
            raise twice(root, split, [str(file.relative_to(root)) for file in files])
    return whole or inside
