"""Parquet files.

The names in `Fields` are columns; `meta.pile_set_name` is a field of the struct column
`meta`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from salt_jax.data.corpora.document import (
    Document,
    Fields,
    FilePart,
    Limits,
    find,
)
from salt_jax.data.corpora.parquet_pages import page_sizes

X = TypeVar("X")

_BLOCK_ROWS = 64
# The read buffer. A row group may be as large as its file, so it is never read whole.
_READ_BYTES = 1 << 20
_IS_TEXT: Sequence[Callable[[pa.DataType], bool]] = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
)


@dataclasses.dataclass(frozen=True)
class ParquetFile(FilePart):
    """A Parquet file."""

    def check(self) -> None:
        """Checks the schema of the file.

        Raises:
          ValueError: the file is damaged, or a column is missing or holds no text.
        """
        with self._open() as file:
            self._columns(file.schema_arrow)

    def blocks(self) -> Iterator[ParquetRows]:
        """Yields the rows in blocks, whatever the size of the row groups.

        Raises:
          ValueError: the file is damaged, a column is missing or holds no text, or a
            page is beyond a limit.
        """
        number = 1
        with self._open() as file:
            columns = self._columns(file.schema_arrow)
            batches = file.iter_batches(
                self._rows_at_a_time(file.metadata, columns),
                columns=columns,
                use_threads=False,
            )
            for rows in batches:
                yield ParquetRows(number, rows, self.fields)
                number += rows.num_rows

    @contextlib.contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        try:
            with self.path.open("rb") as file:
                yield pq.ParquetFile(
                    file,
                    pre_buffer=False,
                    buffer_size=_READ_BYTES,
                    page_checksum_verification=True,
                )
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # An error of the disk, not of the contents.
            what = str(error).partition("\n")[0].rstrip(". ")
            raise ValueError(
                f"{self.path} is damaged: {what}. Fetch or make it again."
            ) from error

    def _rows_at_a_time(self, metadata: pq.FileMetaData, columns: list[str]) -> int:
        """Returns how many rows to read together, so that their texts fit a limit.

        Raises:
          ValueError: a page is malformed or beyond the limit.
        """
        limit = self.limits.max_document_bytes
        rows = _BLOCK_ROWS
        with self.path.open("rb") as file:
            sizes = self._checked(page_sizes(file, metadata, columns))
            for is_dictionary, num_bytes in sizes:
                if num_bytes > limit:
                    raise ValueError(
                        f"{self.path} has a page of {num_bytes:,} bytes, and "
                        f"limits.max_document_bytes={limit:,}: raise it if such a page "
                        "is meant."
                    )
                if is_dictionary:  # Each row may be all of it.
                    rows = min(rows, limit // max(num_bytes, 1))
        return rows

    def _checked(self, values: Iterator[X]) -> Iterator[X]:
        try:
            yield from values
        except ValueError as error:
            raise ValueError(
                f"{self.path} is damaged: {error}. Fetch or make it again."
            ) from error

    def _columns(self, schema: pa.Schema) -> list[str]:
        """Returns the columns to read."""
        columns = [self.fields.text]
        if self._find(schema, self.fields.text) is None:
            raise self._no_column(schema, self.fields.text, "fields.text")
        if self._find(schema, self.fields.domain) is not None:
            columns.append(self.fields.domain)
        elif self.fields.default_domain is None:
            names = "fields.domain, or fields.default_domain"
            raise self._no_column(schema, self.fields.domain, names)
        return columns

    def _find(self, schema: pa.Schema, name: str) -> pa.DataType | None:
        """Returns the type of a text column, or None if there is no such column."""
        found = find(_types(schema), name)
        if found is None:
            return None
        if isinstance(found, Mapping):
            raise ValueError(
                f"Column {name!r} of {self.path} holds struct<{', '.join(found)}>, not "
                "text."
            )
        values = found.value_type if pa.types.is_dictionary(found) else found
        if not any(is_text(values) for is_text in _IS_TEXT):
            raise ValueError(f"Column {name!r} of {self.path} holds {found}, not text.")
        return found

    def _no_column(self, schema: pa.Schema, name: str, setting: str) -> ValueError:
        return ValueError(
            f"{self.path} has no column {name!r}; it has {_leaves(schema)}. Name one "
            f"in {setting}."
        )


@dataclasses.dataclass(frozen=True)
class ParquetRows:
    """Consecutive rows of a file."""

    first_number: int  # The number of the first row in its file, from 1.
    rows: pa.RecordBatch
    fields: Fields

    def documents(self) -> Iterator[tuple[int, Document | str]]:
        """Yields each row's number, and its document or a description of the error."""
        for index in range(self.rows.num_rows):
            number = self.first_number + index
            try:
                (record,) = self.rows.slice(index, 1).to_pylist()
                yield number, self.fields.document(record)
            except UnicodeDecodeError:
                yield number, "not UTF-8"
            except ValueError as error:
                yield number, str(error)


def file_parts(
    files: Sequence[epath.Path], fields: Fields, limits: Limits = Limits()
) -> list[ParquetFile]:
    """Returns files as parts of a corpus, after checking their schemas.

    Raises:
      ValueError: a file is damaged, or a column is missing or holds no text.
    """
    parts = [ParquetFile(file, fields, limits) for file in files]
    for part in parts:
        part.check()
    return parts


def _types(fields: Iterable[pa.Field]) -> dict[str, Any]:
    """Returns the types of columns by name, those within structs in a dict of theirs.

    Names that are there twice are left out: which one is meant cannot be said.
    """
    fields = list(fields)
    names = collections.Counter(field.name for field in fields)
    return {
        field.name: (
            _types(field.type.fields) if pa.types.is_struct(field.type) else field.type
        )
        for field in fields
        if names[field.name] == 1
    }


def _leaves(schema: pa.Schema) -> list[str]:
    """Returns the names of all columns; struct columns are listed by field."""
    names = []
    for field in schema:
        inner = field.type.fields if pa.types.is_struct(field.type) else []
        names += [f"{field.name}.{leaf.name}" for leaf in inner] or [field.name]
    return names
