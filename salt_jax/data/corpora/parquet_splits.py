"""The Parquet files of a split, named as on the Hugging Face Hub.

A split is `SPLIT.parquet`, the files `SPLIT-IIIII-of-NNNNN.parquet` in the folder or in
its `data/`, or the files `SPLIT/*.parquet`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from etils import epath

from salt_jax.data.corpora.document import twice

_SUFFIX = ".parquet"


def split_files(root: epath.Path, split: str) -> list[epath.Path]:
    """Returns the files of a split, sorted by name; empty if there are none.

    Raises:
      ValueError: the split exists in two layouts, or some of its files are missing.
    """
    numbered = re.compile(
        rf"{re.escape(split)}-(\d+)-of-(\d+)(-[0-9a-f]+)?{re.escape(_SUFFIX)}"
    )
    layouts = {
        f"{split}{_SUFFIX}": _files(root, lambda name: name == f"{split}{_SUFFIX}"),
        f"{split}-*{_SUFFIX}": _files(root, numbered.fullmatch),
        f"data/{split}-*{_SUFFIX}": _files(root / "data", numbered.fullmatch),
        f"{split}/*{_SUFFIX}": _files(
            root / split, lambda name: name.endswith(_SUFFIX)
        ),
    }
    found = {layout: files for layout, files in layouts.items() if files}
    if len(found) > 1:
        raise twice(root, split, list(found))
    files = next(iter(found.values()), [])
    _refuse_incomplete(files, [numbered.fullmatch(file.name) for file in files])
    return files


def _files(folder: epath.Path, is_one: Callable[[str], object]) -> list[epath.Path]:
    if not folder.is_dir():
        return []
    files = [file for file in folder.iterdir() if is_one(file.name)]
    return sorted(files, key=lambda file: file.name)


def _refuse_incomplete(
    files: Sequence[epath.Path], matches: Sequence[re.Match | None]
) -> None:
    """Raises ValueError unless files numbered I-of-N are complete and distinct."""
    if None in matches:
        return
    numbers = [int(match[1]) for match in matches if match]
    counts = {int(match[2]) for match in matches if match}
    if files and (len(counts) > 1 or numbers != list(range(max(counts)))):
        raise ValueError(
            f"{files[0].parent} has {len(files)} files such as {files[0].name}, whose "
            "numbers are not 0 to N - 1: fetch the missing ones, or delete those with "
            "another N."
        )
