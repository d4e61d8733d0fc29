"""Writing files that survive a crash: whole and on disk, or as they were before.

On a disk, a file or folder is written under a temporary name, flushed, renamed, and the
folder that holds the name is flushed too. A bucket has neither renames nor flushes: an
object appears whole once it is written, and a folder is the objects under its name. So
there a folder is written in place, beside an object that says so until it is finished.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator

from etils import epath

from salt_jax.files.reading import named_errors

UNFINISHED = ".unfinished"  # Ends a name on a disk; is an object's in a bucket.

# A file system that cannot flush a folder says so with one of these.
_NO_FOLDER_FLUSH = (errno.EINVAL, errno.ENOTSUP)


def is_local(path: epath.PathLike) -> bool:
    """Returns whether `path` is on a file system, rather than in a bucket."""
    return "://" not in os.fspath(path)


def write_file(path: epath.PathLike, contents: str | bytes) -> None:
    """Writes a file, creating its folder: readers see all of it or what was before.

    The temporary file has a unique name, so several processes may write at once.

    Raises:
      OSError: the contents cannot be written; what was at `path` is still there.
    """
    path = epath.Path(path)
    data = contents.encode() if isinstance(contents, str) else contents
    if not is_local(path):
        with named_errors(path):
            path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f"{path.name}.{uuid.uuid4().hex}.partial"
    try:
        with named_errors(path), open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def name_file(written: epath.PathLike, path: epath.PathLike) -> None:
    """Gives a file that a library has written its name, `path`, once it is on disk.

    Raises:
      OSError: the file cannot be flushed or renamed.
    """
    written, path = epath.Path(written), epath.Path(path)
    if is_local(path):
        flush_file(written)
    written.replace(path)
    if is_local(path):
        flush_folder(path.parent)


def unfinished_path(output: epath.PathLike) -> epath.Path:
    """Returns where to write the folder `output` before `name_folder` names it."""
    output = epath.Path(output)
    if not is_local(output):
        return output
    return output.parent / f"{output.name}{UNFINISHED}"


def begin_folder(output: epath.PathLike) -> epath.Path:
    """Returns the new folder to write, which `name_folder` makes `output`.

    In a bucket it has an object that says that it is not finished. What an earlier
    attempt left behind is removed.

    Raises:
      OSError: the folder cannot be written.
    """
    folder = unfinished_path(output)
    if is_local(folder):
        folder.rmtree(missing_ok=True)
        folder.mkdir(parents=True)
        return folder
    if (folder / UNFINISHED).exists():
        folder.rmtree()
    write_file(folder / UNFINISHED, "This folder is being written.\n")
    return folder


def name_folder(written: epath.PathLike, output: epath.PathLike) -> None:
    """Gives a folder its name, `output`, once all of it is on disk.

    In a bucket, where it is written in place, the object goes that says otherwise.

    Raises:
      OSError: a file cannot be flushed, or the folder cannot be renamed.
    """
    written, output = epath.Path(written), epath.Path(output)
    if not is_local(output):
        (output / UNFINISHED).unlink()
        return
    flush_tree(written)
    written.rename(output)
    flush_folder(output.parent)


@contextlib.contextmanager
def new_folder(output: epath.PathLike) -> Iterator[epath.Path]:
    """Yields the folder to write what `output` will hold; removes it on an error.

    See `begin_folder`.

    Raises:
      OSError: the folder cannot be written.
    """
    folder = begin_folder(output)
    try:
        yield folder
        name_folder(folder, output)
    except BaseException:
        folder.rmtree(missing_ok=True)
        raise


def is_there(output: epath.PathLike) -> bool:
    """Returns whether there is anything at `output` but an unfinished folder."""
    output = epath.Path(output)
    if is_local(output):
        return output.exists()
    return output.exists() and not (output / UNFINISHED).exists()


def flush_tree(folder: epath.PathLike) -> None:
    """Flushes every file and folder under a local `folder` to disk."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            flush_file(os.path.join(root, name))
        flush_folder(root)


def flush_folder(folder: epath.PathLike) -> None:
    """Flushes the names in a local folder to disk, those just renamed among them."""
    try:
        flush_file(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise


def flush_file(path: epath.PathLike) -> None:
    """Flushes a local file to disk.

    Raises:
      OSError: the file is missing, or the disk fails; the message names it.
    """
    with named_errors(path):
        descriptor = os.open(os.fspath(path), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
