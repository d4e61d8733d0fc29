"""The sizes of the pages of Parquet columns, read from the headers of the pages.

PyArrow allocates what a header says, and a dictionary can make a few bytes stand for
any number of copies of a long text. So sizes are looked at before anything is read. A
header is a Thrift struct in the compact protocol; its first three fields are the type
and the sizes of the page, uncompressed and compressed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow.parquet as pq

_HEADER_BYTES = 1 << 16  # At a time, and of the longest header: it has statistics.
_DICTIONARY = 2  # The type of a page.
# Types of fields. Of headers none is a list, a set or a map.
_TRUE, _FALSE, _BINARY, _STRUCT = 1, 2, 8, 12
_FIXED = {3: 1, 7: 8}  # Bytes of what is no variable integer: a byte, a double.
_INTEGERS = (4, 5, 6)
_DEEPEST = 8


def page_sizes(
    file: IO[bytes], metadata: pq.FileMetaData, columns: Sequence[str]
) -> Iterator[tuple[bool, int]]:
    """Yields whether a page is a dictionary, and its uncompressed size in bytes.

    Args:
      file: The file; its position changes.
      metadata: The metadata of the file.
      columns: The dotted names of the columns.

    Raises:
      ValueError: a header is malformed.
    """
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index in range(row_group.num_columns):
            column = row_group.column(index)
            if column.path_in_schema in columns:
                yield from _of_column(file, column)


def _of_column(
    file: IO[bytes], column: pq.ColumnChunkMetaData
) -> Iterator[tuple[bool, int]]:
    begin = column.dictionary_page_offset or column.data_page_offset
    end = begin + column.total_compressed_size
    while 0 <= begin < end:
        file.seek(begin)
        header = _Header(file.read(min(_HEADER_BYTES, end - begin)))
        kind, uncompressed, compressed = header.first_numbers()
        if min(uncompressed, compressed) < 0:
            raise ValueError("a page has a size below 0")
        yield kind == _DICTIONARY, uncompressed
        begin += header.place + compressed


class _Header:
    """Reads a Thrift struct from bytes."""

    def __init__(self, text: bytes):
        self.place = 0
        self._text = text

    def first_numbers(self) -> tuple[int, int, int]:
        """Reads the struct; returns its fields 1 to 3, which are integers."""
        numbers = {}
        for field, kind in self._fields():
            if field <= 3:
                numbers[field] = self._number()
            else:
                self._skip(kind, 0)
        if sorted(numbers) != [1, 2, 3]:
            raise ValueError("a page has no size")
        return numbers[1], numbers[2], numbers[3]

    def _fields(self) -> Iterator[tuple[int, int]]:
        """Yields the number and the type of each field, whose value is read next."""
        field = 0
        while start := self._byte():
            more, kind = start >> 4, start & 0xF
            field = field + more if more else self._number()
            yield field, kind

    def _skip(self, kind: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError("a page header is nested too deeply")
        if kind in (_TRUE, _FALSE):
            return
        if kind == _STRUCT:
            for _, inner in self._fields():
                self._skip(inner, depth + 1)
        elif kind == _BINARY:
            length = self._varint()
            self.place += length
        elif kind in _FIXED:
            self.place += _FIXED[kind]
        elif kind in _INTEGERS:
            self._varint()
        else:
            raise ValueError("a page header has a field of an unknown type")

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a page header has too long a number")
        return value | byte << shift

    def _byte(self) -> int:
        if not 0 <= self.place < len(self._text):
            raise ValueError("a page header is cut off")
        self.place += 1
        return self._text[self.place - 1]
