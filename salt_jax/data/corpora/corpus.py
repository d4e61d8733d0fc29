"""Finds a corpus by name, and the parts of its splits.

- A folder. A split is `SPLIT.jsonl` or the files `SPLIT/*.jsonl`, plain or compressed
  (`.zst`, `.gz`), or Parquet files with the names in `parquet`. A line is
  `{"text": ..., "meta": {"pile_set_name": ...}}`, where the latter is the domain of the
  document; `Fields` changes these names. "embedded:NAME" is a folder of the package.
- "tfds:NAME[/CONFIG][:VERSION]": a dataset of TensorFlow Datasets in `data_dir`.
- "seqio:NAME": a task or mixture that `module` registers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from etils import epath

from salt_jax.data import embedded
from salt_jax.data.corpora import jsonl
from salt_jax.data.corpora.document import (
    Fields,
    Limits,
    Part,
    twice,
)

__all__ = [
    *("Document", "Fields", "Limits", "Part", "RecordBlock"),
    *("fingerprint", "split_parts"),
]

_TFDS = "tfds:"
_SEQIO = "seqio:"


def split_parts(
    corpus: str,
    split: str,
    fields: Fields = Fields(),
    *,
    limits: Limits = Limits(),
    data_dir: str | None = None,
    module: str | None = None,
    vocabulary: str | None = None,
) -> list[Part]:
    """Returns the parts of a split, in the order that the prepared bytes depend on.

    Args:
      corpus: A folder, "tfds:..." or "seqio:...".
      split: The name of a split, such as "train".
      fields: The fields of a record that hold its text and its domain.
      limits: Of the memory that a file may take.
      data_dir: The folder of TensorFlow Datasets; only for "tfds:...".
      module: A module to import first; only for "seqio:...".
      vocabulary: The vocabulary file that a "seqio:..." task may have tokenized with.

    Raises:
      FileNotFoundError: there is no such corpus, or it has no such split.
      ValueError: an argument does not apply to this kind of corpus, or the text or the
        domain is missing.
    """
    kind = next((kind for kind in (_TFDS, _SEQIO) if corpus.startswith(kind)), "")
    of_use = {"data_dir": kind == _TFDS, "module": kind == _SEQIO}
    for name, value in {"data_dir": data_dir, "module": module}.items():
        if value is not None and not of_use[name]:
            raise ValueError(
                f"{name}={value!r} does not apply to the corpus {corpus!r}: leave it "
                "out."
            )
    if not kind:
        return _folder_parts(embedded.resolve(corpus), split, fields, limits)
    name = corpus.removeprefix(kind)
    # Imported here, because TensorFlow is slow to import and rarely needed.
    if kind == _TFDS:
        from salt_jax.data.corpora import tfds_corpus

        return [*tfds_corpus.tfds_shards(name, split, fields, data_dir=data_dir)]
    from salt_jax.data.corpora import seqio_corpus

    return [
        *seqio_corpus.task_shards(
            name, split, fields, module=module, vocabulary=vocabulary
        )
    ]


def fingerprint(fingerprints: Sequence[str]) -> str:
    """Returns the SHA-256 of the fingerprints of all parts, in order."""
    digest = hashlib.sha256()
    for part in fingerprints:
        digest.update(bytes.fromhex(part))
    return digest.hexdigest()


def _folder_parts(
    root: epath.Path, split: str, fields: Fields, limits: Limits
) -> list[Part]:
    # Imported here, because PyArrow is slow to import and training does not need it.
    from salt_jax.data.corpora import parquet, parquet_splits

    if not root.is_dir():
        raise FileNotFoundError(f"No corpus at {root}: there is no such folder.")
    lines = jsonl.split_files(root, split)
    columns = parquet_splits.split_files(root, split)
    if lines and columns:
        raise twice(root, split, [lines[0].name, columns[0].name])
    if not lines and not columns:
        raise FileNotFoundError(
            f"The corpus {root} has no split {split!r}: expected {split}.jsonl.zst, "
            f"{split}/*.jsonl.zst or {split}-00000-of-NNNNN.parquet, found "
            f"{_found(root)}."
        )
    if lines:
        return [jsonl.JsonLines(file, fields, limits) for file in lines]
    return [*parquet.file_parts(columns, fields, limits)]


def _found(root: epath.Path) -> list[str]:
    """Returns the first file names in a folder and its data/, for messages."""
    names = sorted(entry.name for entry in root.iterdir())
    if (root / "data").is_dir():
        names += sorted(f"data/{entry.name}" for entry in (root / "data").iterdir())
    return [*names[:20], *(["..."] if len(names) > 20 else [])]
