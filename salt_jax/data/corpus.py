"""Text in the Pile's layout: files of one JSON object a line.

A split is `SPLIT.jsonl` or the files `SPLIT/*.jsonl`, plain or compressed (`.zst`,
`.gz`). A line is `{"text": ..., "meta": {"pile_set_name": ...}}`, where the name is
the domain of the document.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import IO

import zstandard
from etils import epath

from salt_jax.data import embedded

_SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz")
_READ_BYTES = 1 << 17


@dataclasses.dataclass(frozen=True)
class Document:
    """One text, and the part of the corpus that it is from."""

    text: str
    domain: str
    num_bytes: int  # Of the text, in UTF-8.


@dataclasses.dataclass(frozen=True)
class Lines:
    """Consecutive lines of a file, still as bytes."""

    path: epath.Path
    first_number: int  # Of the first line, as an editor counts: from 1.
    lines: Sequence[bytes]


def split_files(corpus: epath.PathLike, split: str) -> list[epath.Path]:
    """Returns the files of a split, in the order in which they are read.

    Raises:
      FileNotFoundError: there is no such corpus, or it has no such split.
    """
    root = embedded.resolve(corpus)
    if not root.is_dir():
        raise FileNotFoundError(f"No corpus at {root}: there is no such folder.")
    files = [root / f"{split}{suffix}" for suffix in _SUFFIXES]
    files = [file for file in files if file.is_file()]
    if (root / split).is_dir():
        entries = sorted((root / split).iterdir(), key=lambda file: file.name)
        files += [file for file in entries if file.name.endswith(_SUFFIXES)]
    if not files:
        raise FileNotFoundError(
            f"The corpus {root} has no split {split!r}: expected {split}.jsonl.zst or "
            f"{split}/*.jsonl.zst, found {sorted(e.name for e in root.iterdir())}."
        )
    return files


def fingerprint(files: Sequence[epath.Path]) -> str:
    """Returns the SHA-256 over the contents of `files`, in their order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_lines(path: epath.Path, *, block_bytes: int = _READ_BYTES) -> Iterator[Lines]:
    """Yields the lines of a file, in blocks of about `block_bytes`.

    Raises:
      ValueError: the file is compressed and damaged, or cut short.
    """
    number = 1
    rest = b""
    for block in _read_bytes(path, block_bytes):
        *lines, rest = (rest + block).split(b"\n")
        if lines:
            yield Lines(path, number, lines)
        number += len(lines)
    if rest:
        yield Lines(path, number, [rest])


def parse_document(line: bytes) -> Document:
    """Returns the document on a line.

    Raises:
      ValueError: the line is not one; the message says why, in a few words.
    """
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError("not JSON") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ValueError("no 'text'")
    meta = record.get("meta")
    domain = meta.get("pile_set_name") if isinstance(meta, dict) else None
    if not isinstance(domain, str):
        raise ValueError("no 'pile_set_name' in 'meta'")
    try:
        return Document(text, domain, len(text.encode()))
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair in 'text'") from error


def _read_bytes(path: epath.Path, block_bytes: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            if path.name.endswith(".zst"):
                yield from _decompress_zstd(file, block_bytes)
            elif path.name.endswith(".gz"):
                yield from _blocks(gzip.GzipFile(fileobj=file), block_bytes)
            else:
                yield from _blocks(file, block_bytes)
    except EOFError as error:
        raise ValueError(f"{path} is cut short: fetch or make it again.") from error
    except (zstandard.ZstdError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error


def _blocks(file: IO[bytes] | gzip.GzipFile, block_bytes: int) -> Iterator[bytes]:
    while block := file.read(block_bytes):
        yield block


def _decompress_zstd(file: IO[bytes], block_bytes: int) -> Iterator[bytes]:
    """Yields the contents of all frames; zstandard's own reader takes half a frame."""
    frame = None
    for block in _blocks(file, block_bytes):
        while block:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(block)
            block, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame is not None:
        raise EOFError
