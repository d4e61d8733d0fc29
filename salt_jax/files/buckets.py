"""Cloud buckets: which paths name one, and where its files lie on the local disk."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from salt_jax.files.writing import is_local

FOLDER_VARIABLE = "SALT_JAX_BUCKET_FILES"
# What others write in a path that salt_jax reads from Google Cloud Storage alone.
_REFUSED = re.compile(r"(s3|gcs|az|abfs|hf|hdfs|file)://")
_BUCKET = "gs://"
_BLOCK_BYTES = 8 << 20


def configure() -> None:
    """Sets how this process and its children reach buckets, unless that is set.

    Paths are read with gcsfs rather than TensorFlow, which salt_jax does not import for
    them, and names are listed anew each time: others write there too.
    """
    os.environ.setdefault("EPATH_USE_TF", "0")
    os.environ.setdefault("FSSPEC_GCS", '{"use_listings_cache": false}')


def check_paths(value: Any) -> None:
    """Checks that the paths among strings can be read; looks at none of them.

    Args:
      value: A string; or a dataclass, sequence or mapping with strings in it.

    Raises:
      ValueError: a path is of a kind of storage that is not supported, or names a
        bucket and the package that reads it is not installed.
    """
    if isinstance(value, (str, epath.Path)):
        _check(os.fspath(value))
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            check_paths(getattr(value, field.name))
    elif isinstance(value, Mapping):
        check_paths(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for each in value:
            check_paths(each)


def _check(path: str) -> None:
    if match := _REFUSED.match(path):
        raise ValueError(
            f"{path} cannot be used: {match.group()} is not supported. Use gs://, a "
            "local path, or a bucket that is mounted as a local path."
        )
    if path.startswith(_BUCKET) and importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"{path} is in a bucket, and gcsfs is not installed: run "
            "pip install -e '.[gcs]'."
        )


def local_folder(path: epath.PathLike) -> epath.Path:
    """Returns where files of a folder in a bucket are kept on the local disk.

    It is under $SALT_JAX_BUCKET_FILES, or else ~/.cache/salt_jax. The path of a local
    folder is returned as it is.
    """
    text = os.fspath(path)
    if is_local(path):
        return epath.Path(path)
    default = os.path.join(os.path.expanduser("~"), ".cache", "salt_jax")
    root = os.environ.get(FOLDER_VARIABLE) or default
    return epath.Path(root) / text.replace("://", "/")


def local_copy(path: epath.Path, *, sha256: str) -> epath.Path:
    """Returns a local file with the contents of `path`, for readers of local files.

    A file in a bucket is copied when it is first asked for. The copy's name contains
    `sha256`, so a file that has changed is copied again. Several processes may copy at
    once. A local file is returned as it is.

    Raises:
      OSError: the copy cannot be read or written, or its SHA-256 is another.
    """
    if is_local(path):
        return path
    copy = _copy_of(path, sha256)
    if copy.exists():
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    partial = copy.parent / f"{copy.name}.{uuid.uuid4().hex}.partial"
    digest = hashlib.sha256()
    try:
        with path.open("rb") as source, partial.open("wb") as target:
            while block := source.read(_BLOCK_BYTES):
                digest.update(block)
                target.write(block)
        if digest.hexdigest() != sha256:
            raise OSError(
                f"{path} has the SHA-256 {digest.hexdigest()[:12]}, not {sha256[:12]}"
            )
        partial.replace(copy)
    finally:
        partial.unlink(missing_ok=True)
    return copy


def forget_copy(path: epath.Path, *, sha256: str) -> None:
    """Removes what `local_copy` has copied, so that it copies again."""
    if not is_local(path):
        _copy_of(path, sha256).unlink(missing_ok=True)


def _copy_of(path: epath.Path, sha256: str) -> epath.Path:
    return local_folder(path.parent) / f"{path.name}.{sha256[:16]}"


def copy_folder(source: epath.Path, target: epath.Path, *, last: str) -> None:
    """Copies the files of a local folder to one in a bucket, and `last` after all.

    Raises:
      OSError: a file cannot be read or written; `last` is not in `target` then.
    """
    names = sorted(file.name for file in source.iterdir() if file.name != last)
    for name in (*names, last):
        with (source / name).open("rb") as file, (target / name).open("wb") as copy:
            shutil.copyfileobj(file, copy, _BLOCK_BYTES)


def move_folder(source: epath.Path, target: epath.Path, *, last: str) -> None:
    """Moves a folder of a bucket; killed in between, one of both has its file `last`.

    Raises:
      OSError: a file cannot be read or written.
    """
    files = [file.relative_to(source) for file in _files(source)]
    for file in sorted(files, key=lambda file: (str(file) == last, file)):
        with (source / file).open("rb") as read, (target / file).open("wb") as written:
            shutil.copyfileobj(read, written, _BLOCK_BYTES)
    (source / last).unlink()
    source.rmtree()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
