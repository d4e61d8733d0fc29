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
    """Returns all records of a split, each with the wanted fields.

    Args:
      source: A folder of files of JSON lines, one a split, which may be "embedded:...";
        or "tfds:NAME", a data set of TensorFlow Datasets.
      split: The stem of the file; of a data set, one that it has or a part of one, such
        as "train[95%:]".
      fields: The names that every record must have, of texts or whole numbers.
      data_dir: Where TensorFlow Datasets keeps its data, if not where it does.

    Raises:
      FileNotFoundError: there is no such source or split.
      ValueError: something is no record, or lacks a field.
    """
    if source.startswith(_TFDS):
        # Not at the top: TensorFlow is for those who read with it.
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
                f"{where}: {name!r} is {type(record[name]).__name__}, and what is read "
                "is text or a whole number."
            )
    return {name: record[name] for name in fields}
