"""What a corpus is made of: parts of blocks of records, each of them a document.

Each kind of corpus implements `Part` and `RecordBlock`; `corpus.split_parts` lists the
kinds.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from etils import epath


@dataclasses.dataclass(frozen=True)
class Document:
    """One text, and the domain of the corpus that it is from."""

    text: str
    domain: str
    num_bytes: int  # Of the text, in UTF-8.
    # If the corpus has them already, without one that ends the text.
    tokens: np.ndarray | None = dataclasses.field(default=None, compare=False)


class RecordBlock(Protocol):
    """Consecutive records of a part, not parsed yet: worker threads do that."""

    def documents(self) -> Iterator[tuple[int, Document | str]]:
        """Yields the number of each record in its part, and the document in it.

        Numbers begin at 1. Instead of a document stands, in a few words, what is wrong.
        """


class Part(Protocol):
    """A piece of a split that can be read without the others. Can be pickled."""

    @property
    def name(self) -> str:
        """The part as messages show it, such as the path of a file."""

    def fingerprint(self) -> str:
        """Returns the SHA-256, in hexadecimal, of what the part holds."""

    def blocks(self) -> Iterator[RecordBlock]:
        """Yields all records in their order.

        Raises:
          ValueError: the part is damaged, or cut short.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fields:
    """Where a record keeps its text and its domain, as names joined by dots."""

    text: str = "text"
    domain: str = "meta.pile_set_name"
    default_domain: str | None = None  # Of a record without one; None: it is bad.

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
          ValueError: it has none; the message says why, in a few words.
        """
        text = _find(record, self.text)
        if text is None:
            raise ValueError(_missing(self.text))
        domain = _find(record, self.domain)
        if domain is None:
            domain = self.default_domain
        if domain is None:
            raise ValueError(_missing(self.domain))
        _num_bytes(domain, self.domain)
        return Document(text, domain, _num_bytes(text, self.text))


@dataclasses.dataclass(frozen=True)
class FilePart:
    """A file, as far as it is a part of a corpus whatever its format."""

    path: epath.Path
    fields: Fields = Fields()

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self.path)

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the file, compressed as it is."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _find(record: Any, path: str) -> str | None:
    """Returns the text at `path`, or None where there is nothing."""
    found = record
    for name in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
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
