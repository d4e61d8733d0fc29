"""Records with named fields, from JSON lines or from TensorFlow Datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from salt_jax.data import embedded
from salt_jax.data.corpora.document import Limits, find, is_whole
from salt_jax.data.corpora.jsonl import read_lines, split_files
from salt_jax.files.records import decode_object

_TFDS = "tfds:"
_READ_BYTES = 1 << 20


def read_records(
    source: str,
    split: str,
    fields: Sequence[str],
    *,
    data_dir: str | None = None,
    limits: Limits = Limits(),
) -> list[Mapping[str, str | int]]:
    """Returns the given fields of all records of a split.

    Args:
      source: A folder with JSON lines for each split, which may be "embedded:...";
        or "tfds:NAME", a dataset of TensorFlow Datasets.
      split: The stem of the file, or the name of a folder of files; or a split of the
        dataset, possibly a slice such as "train[95%:]".
      fields: The fields to return, as dotted paths. Every record needs them, as text or
        integers.
      data_dir: The folder of TensorFlow Datasets; None: its default.
      limits: Of the memory that a file may take.

    Raises:
      FileNotFoundError: there is no such source or split.
      ValueError: a line is not a record, or a record lacks a field.
    """
    if source.startswith(_TFDS):
        # Imported here, because TensorFlow is slow to import and rarely needed.
        from salt_jax.data.reading import tfds_records

        name = source.removeprefix(_TFDS)
        return tfds_records.read(name, split, fields, data_dir=data_dir)
    return [
        _record(line, fields, f"{path}:{line_number}")
        for path in _files(embedded.resolve(source), split)
        for number, lines in read_lines(path, block_bytes=_READ_BYTES, limits=limits)
        for line_number, line in enumerate(lines, number)
        if line.strip()
    ]


def _files(folder: epath.Path, split: str) -> list[epath.Path]:
    if files := split_files(folder, split):
        return files
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    raise FileNotFoundError(
        f"No {split}.jsonl in {folder}, plain or as .zst or .gz: there "
        f"{'is ' + ', '.join(found) if found else 'is nothing'}."
    )


def _record(line: bytes, fields: Sequence[str], where: str) -> Mapping[str, str | int]:
    record = decode_object(line, where=where, remedy="mend or remove it")
    return {name: _value(record, name, where) for name in fields}


def _value(record: Mapping[str, Any], name: str, where: str) -> str | int:
    value = find(record, name)
    if value is None:
        raise ValueError(f"{where} has no field {name!r}; it has {', '.join(record)}.")
    if not isinstance(value, (str, int)):
        raise ValueError(
            f"{where}: {name!r} is {type(value).__name__}, not text or an integer."
        )
    if isinstance(value, str) and not is_whole(value):
        raise ValueError(f"{where}: {name!r} has half of a surrogate pair: mend it.")
    return value
