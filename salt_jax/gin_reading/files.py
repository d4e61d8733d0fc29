"""Lookup of gin files: working directory, folders of named files, salt_jax's own."""

from __future__ import annotations

import contextvars
import logging
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

import gin

# The folders of the files that gin is reading.
_FOLDERS = contextvars.ContextVar[Sequence[pathlib.Path]]("folders", default=())


def own_folder() -> pathlib.Path:
    """Returns the folder of salt_jax's own gin files.

    It is inside an installed package, and beside the package in a checkout.
    """
    package = pathlib.Path(__file__).parents[1]
    installed = package / "gin_files"
    return installed if installed.is_dir() else package.parent / "gin"


def named(name: str, folders: Sequence[pathlib.Path] = ()) -> pathlib.Path:
    """Returns the path of a gin file.

    Raises:
      FileNotFoundError: no folder has it.
    """
    if pathlib.Path(name).is_file():
        return pathlib.Path(name).absolute()
    if (found := _found(name, folders)) is not None:
        return found
    raise FileNotFoundError(f"No gin file at {name!r}, nor in {own_folder()}.")


def parse(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """Parses files with gin; returns their paths and those of included files.

    The working directory and the folders of the files are appended to `sys.path`, so
    that files can import modules from there.
    """
    folders = [path.parent for path in paths]
    importable = [str(folder) for folder in (pathlib.Path.cwd(), *folders)]
    sys.path += [x for x in dict.fromkeys(importable) if x not in sys.path]
    _FOLDERS.set(folders)
    # Gin's resource reader logs each file that only a later reader finds.
    root = logging.getLogger()
    root.addFilter(_not_of_resources)
    try:
        trees = [gin.parse_config_file(str(path)) for path in paths]
    finally:
        root.removeFilter(_not_of_resources)
    return [named(name, folders) for name in dict.fromkeys(_names(trees))]


def shown(path: str) -> str:
    """Returns a path for a message: relative if it is below the working directory."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


def all_shown(paths: Sequence[pathlib.Path]) -> str:
    """Returns the paths of the gin files that were given, for a message."""
    return ", ".join(shown(str(path)) for path in paths)


def _names(trees: Sequence) -> Iterator[str]:
    for tree in trees:
        yield tree.filename
        yield from _names(tree.includes)


def _found(name: str, folders: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """Returns the path of a file in `folders` or in salt_jax's folder, or None."""
    own = own_folder()
    paths = [folder / name for folder in (*folders, own)]
    paths.append(own / name.removeprefix("gin/"))
    return next((path for path in paths if path.is_file()), None)


def _not_of_resources(record: logging.LogRecord) -> bool:
    return record.module != "resource_reader"


def read(path: pathlib.Path) -> TextIO:
    """Returns an opened gin file, after the byte order mark that it may begin with.

    Raises:
      ValueError: it is not UTF-8.
    """
    file = path.open(encoding="utf-8-sig")
    try:
        file.read()
    except UnicodeDecodeError as error:
        file.close()
        raise ValueError(f"{shown(str(path))} is not UTF-8: {error}.") from error
    file.seek(0)
    return file


def _open(name: str) -> TextIO:
    return read(named(name, _FOLDERS.get()))


def _is_there(name: str) -> bool:
    return pathlib.Path(name).is_file() or _found(name, _FOLDERS.get()) is not None


# Before gin's own reader, which opens a file as it is: `register_file_reader` appends.
gin.config._FILE_READERS.insert(0, (_open, _is_there))
