"""The SHA-256 of the files of an exported Hugging Face folder, which imports compare.

They are in `checksums.json`, which transformers ignores. A folder of another origin has
none, and is not checked.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypedDict

from etils import epath

from salt_jax.files.reading import check_sha256, is_plain_name, sha256_of_file
from salt_jax.files.records import read_record, write_record
from salt_jax.files.writing import UNFINISHED

NAME = "checksums.json"
_REMEDY = f"export it again, or delete {NAME} if you changed the file"


class _Checksums(TypedDict):
    files: dict[str, str]  # SHA-256 by name.


def write_checksums(folder: epath.Path) -> None:
    """Writes the SHA-256 of every file in `folder` beside them.

    Raises:
      OSError: a file cannot be read or written.
    """
    paths = sorted(path for path in folder.iterdir() if path.name != UNFINISHED)
    files = {path.name: sha256_of_file(path) for path in paths}
    write_record(folder / NAME, {"files": files})


def check_checksums(folder: epath.Path, names: Collection[str] | None = None) -> None:
    """Compares the files in `folder` with the SHA-256 of when they were exported.

    Args:
      folder: A Hugging Face folder; without checksums it is not checked.
      names: The files to check; None: all that were exported.

    Raises:
      ValueError: a file is missing or damaged.
      OSError: a file cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        return
    files = read_record(path, _Checksums, remedy=_REMEDY)["files"]
    for name in files if names is None else names:
        if not is_plain_name(name) or name not in files:
            raise ValueError(f"{path} has no file {name!r} of this folder: {_REMEDY}.")
        check_sha256(folder / name, files[name], recorded_in=path, remedy=_REMEDY)
