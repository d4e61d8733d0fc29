"""A corpus is made of parts, a part of blocks of records, and a record is a document.

Each kind of corpus implements `Part` and `RecordBlock`; `corpus.split_parts` lists the
kinds.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath


@dataclasses.dataclass(frozen=True)
class Document:
    """A text and its domain."""

    text: str
    domain: str
    num_bytes: int  # Bytes of the text in UTF-8.
    # The tokens, without the end token, if the corpus is already tokenized.
    tokens: np.ndarray | None = dataclasses.field(default=None, compare=False)


class RecordBlock(Protocol):
    """Consecutive records of a part, to be parsed by a worker thread."""

    def documents(self) -> Iterator[tuple[int, Document | str]]:
        """Yields each record's number in its part, from 1, and its document.

        For a malformed record, a few words on the problem replace the document.
        """


class Part(Protocol):
    """A part of a split that can be read on its own, such as a file. Picklable."""

    @property
    def name(self) -> str:
        """The name in messages, such as the path of a file."""

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the contents, in hexadecimal."""

    def blocks(self) -> Iterator[RecordBlock]:
        """Yields all records, in order.

        Raises:
          ValueError: the part is damaged or truncated.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
    """The fields of a record that hold its text and domain, as dotted paths.

    Names may have dots too: "meta.id" is the field "meta.id" if there is one, and else
    the "id" in "meta".
    """

    text: str = "text"
    domain: str = "meta.pile_set_name"
    default_domain: str | None = None  # If a record has no domain; None: malformed.

    def __post_init__(self):
        if not isinstance(self.default_domain, str | None):
            raise ValueError(
                f"fields.default_domain must be a name or None, got "
                f"{self.default_domain!r}."
            )
        for name in ("text", "domain"):
            if not all(getattr(self, name).split(".")):
                raise ValueError(
                    f"fields.{name} must be names joined by dots, got "
                    f"{getattr(self, name)!r}."
                )

    def document(self, record: Any) -> Document:
        """Returns the document of a parsed record.

        Raises:
          ValueError: the record is malformed; the message says why in a few words.
        """
        text = _text_at(record, self.text)
        if text is None:
            raise ValueError(_missing(self.text))
        domain = _text_at(record, self.domain)
        if domain is None:
            domain = self.default_domain
        if domain is None:
            raise ValueError(_missing(self.domain))
        _num_bytes(domain, self.domain)
        return Document(text, domain, _num_bytes(text, self.text))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How much memory a file of a corpus may take, so that none takes all of it.

    They change no result, only which files are refused.
    """

    max_document_bytes: int = 1 << 26  # Of a line; of a page of a Parquet file.
    max_window_bytes: int = 1 << 27  # That .zst may look back: zstd's --long=27.

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ValueError(
                    f"limits.{field.name} must be a positive integer, got {value!r}."
                )


@dataclasses.dataclass(frozen=True)
class FilePart:
    """The members that parts of all file formats share."""

    path: epath.Path
    fields: Fields = Fields()
    limits: Limits = Limits()

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self.path)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the file as it is on disk."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def twice(root: epath.Path, split: str, names: Sequence[str]) -> ValueError:
    """Returns the refusal of a split whose text is in `root` under several names."""
    return ValueError(
        f"The corpus {root} has the split {split!r} more than once, as "
        f"{' and as '.join(names)}: leave one."
    )


def find(record: Any, path: str) -> Any:
    """Returns what is at a dotted path in nested mappings, or None if there is nothing.

    A name that has dots itself goes before a path through the parts of the name.
    """
    if not isinstance(record, Mapping):
        return None
    if path in record:
        return record[path]
    for dot in (index for index, letter in enumerate(path) if letter == "."):
        found = find(record.get(path[:dot]), path[dot + 1 :])
        if found is not None:
            return found
    return None


def _text_at(record: Any, path: str) -> str | None:
    """Returns the text at a dotted `path`, or None if there is none."""
    found = find(record, path)
    if found is not None and not isinstance(found, str):
        raise ValueError(f"{path!r} is of type {type(found).__name__}, not str")
    return found


def _missing(path: str) -> str:
    parents, _, name = path.rpartition(".")
    return f"no {name!r} in {parents!r}" if parents else f"no {name!r}"


def _num_bytes(text: str, path: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair in {path!r}") from error


def is_whole(text: str) -> bool:
    """Returns whether `text` has no half of a surrogate pair, which JSON can spell."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
