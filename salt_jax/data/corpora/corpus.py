"""What can be prepared, by name, and the parts that it has.

- A folder: a split of it is `SPLIT.jsonl` or the files `SPLIT/*.jsonl`, plain or
  compressed (`.zst`, `.gz`), or Parquet files as `data.parquet` names them. A line is
  `{"text": ..., "meta": {"pile_set_name": ...}}`, where the name is the domain of the
  document; `Fields` says where else they may be. "embedded:NAME" is such a folder.
- "tfds:NAME[/CONFIG][:VERSION]": a data set of TensorFlow Datasets in `data_dir`.
- "seqio:NAME": a task or mixture that `module` registers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from etils import epath

from salt_jax.data import embedded
from salt_jax.data.corpora import jsonl
from salt_jax.data.corpora.document import Document, Fields, Part, RecordBlock

__all__ = ["Document", "Fields", "Part", "RecordBlock", "fingerprint", "split_parts"]

_TFDS = "tfds:"
_SEQIO = "seqio:"


def split_parts(
    corpus: str,
    split: str,
    fields: Fields = Fields(),
    *,
    data_dir: str | None = None,
    module: str | None = None,
    vocabulary: str | None = None,
) -> list[Part]:
    """Returns the parts of a split; their order decides the bytes of what is prepared.

    Args:
      corpus: A folder, "tfds:..." or "seqio:...".
      split: A part of the corpus by name, such as "train".
      fields: Where a record keeps what is needed.
      data_dir: Where "tfds:..." is; for nothing else.
      module: What to import first for "seqio:..."; for nothing else.
      vocabulary: The file with which a "seqio:..." may be tokenized already.

    Raises:
      FileNotFoundError: there is no such corpus, or it has no such split.
      ValueError: an argument is of no use to this kind of corpus, or what is there
        has no text or no domain.
    """
    kind = next((kind for kind in (_TFDS, _SEQIO) if corpus.startswith(kind)), "")
    of_use = {"data_dir": kind == _TFDS, "module": kind == _SEQIO}
    for name, value in {"data_dir": data_dir, "module": module}.items():
        if value is not None and not of_use[name]:
            raise ValueError(
                f"{name}={value!r} is of no use to the corpus {corpus!r}: leave it out."
            )
    if not kind:
        return _folder_parts(embedded.resolve(corpus), split, fields)
    name = corpus.removeprefix(kind)
    # TensorFlow takes seconds to import, and most who prepare need none.
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
    """Returns the SHA-256 over the fingerprints of the parts, in their order."""
    digest = hashlib.sha256()
    for part in fingerprints:
        digest.update(bytes.fromhex(part))
    return digest.hexdigest()


def _folder_parts(root: epath.Path, split: str, fields: Fields) -> list[Part]:
    # PyArrow takes a while to import, and training needs none.
    from salt_jax.data.corpora import parquet

    if not root.is_dir():
        raise FileNotFoundError(f"No corpus at {root}: there is no such folder.")
    lines = _line_files(root, split)
    columns = parquet.split_files(root, split)
    if lines and columns:
        raise ValueError(
            f"The corpus {root} has the split {split!r} as {lines[0].name} and as "
            f"{columns[0].name}: leave one."
        )
    if not lines and not columns:
        raise FileNotFoundError(
            f"The corpus {root} has no split {split!r}: expected {split}.jsonl.zst, "
            f"{split}/*.jsonl.zst or {split}-00000-of-NNNNN.parquet, found "
            f"{_found(root)}."
        )
    if lines:
        return [jsonl.JsonLines(file, fields) for file in lines]
    return [*parquet.file_parts(columns, fields)]


def _line_files(root: epath.Path, split: str) -> list[epath.Path]:
    files = [root / f"{split}{suffix}" for suffix in jsonl.SUFFIXES]
    files = [file for file in files if file.is_file()]
    if (root / split).is_dir():
        entries = sorted((root / split).iterdir(), key=lambda file: file.name)
        files += [file for file in entries if file.name.endswith(jsonl.SUFFIXES)]
    return files


def _found(root: epath.Path) -> list[str]:
    """Returns the first names in a folder, and in its data/, where splits may be."""
    names = sorted(entry.name for entry in root.iterdir())
    if (root / "data").is_dir():
        names += sorted(f"data/{entry.name}" for entry in (root / "data").iterdir())
    return [*names[:20], *(["..."] if len(names) > 20 else [])]
