"""Records with named fields, from JSON lines or from TensorFlow Datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from etils import epath

from salt_jax.data import embedded
from salt_jax.data.corpora.jsonl import SUFFIXES, read_lines
from salt_jax.data.json_files import parse_object

_TFDS = "tfds:"
_READ_BYTES = 1 << 20


def read_records(
    source: str, split: str, fields: Sequence[str], *, data_dir: str | None = None
) -> list[Mapping[str, str | int]]:
    """Returns the given fields of all records of a split.

    Args:
      source: A folder with one file of JSON lines per split, which may be
        "embedded:..."; or "tfds:NAME", a dataset of TensorFlow Datasets.
      split: The stem of the file; or a split of the dataset, possibly a slice such as
        "train[95%:]".
      fields: The fields to return. Every record needs them, as text or integers.
      data_dir: The folder of TensorFlow Datasets; None: its default.

    Raises:
      FileNotFoundError: there is no such source or split.
      ValueError: a line is not a record, or a record lacks a field.
    """
    if source.startswith(_TFDS):
        # Imported here, because TensorFlow is slow to import and rarely needed.
        from salt_jax.data.reading import tfds_records

        name = source.removeprefix(_TFDS)
        return tfds_records.read(name, split, fields, data_dir=data_dir)
    path = _file(embedded.resolve(source), split)
    records = []
    for number, lines in read_lines(path, block_bytes=_READ_BYTES):
        for line_number, line in enumerate(lines, number):
            if line.strip():
                records.append(_record(line, fields, f"{path}:{line_number}"))
    return records


def _file(folder: epath.Path, split: str) -> epath.Path:
    for suffix in SUFFIXES:
        if (path := folder / f"{split}{suffix}").exists():
            return path
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    raise FileNotFoundError(
        f"No {split}.jsonl in {folder}, plain or as .zst or .gz: there "
        f"{'is ' + ', '.join(found) if found else 'is nothing'}."
    )


def _record(line: bytes, fields: Sequence[str], where: str) -> Mapping[str, str | int]:
    record = parse_object(line, where=where, remedy="mend or remove it")
    for name in fields:
        if name not in record:
            raise ValueError(
                f"{where} has no field {name!r}; it has {', '.join(record)}."
            )
        if not isinstance(record[name], (str, int)):
            raise ValueError(
                f"{where}: {name!r} is {type(record[name]).__name__}, not text or an "
                "integer."
            )
    return {name: record[name] for name in fields}
