"""Locks on directories that one process writes alone.

A lock names its holder and ends with it, even by a kill. On a file system it is held by
the system (`flock`). In a bucket, and on a file system without such locks, it is a
lease.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from typing import IO

from etils import epath

from salt_jax.files.lease import Holder, LeaseTimes, leased, read_holder, refusal
from salt_jax.files.writing import is_local

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def alone_in(folder: epath.PathLike) -> Iterator[None]:
    """Keeps other processes from working in `folder`, by the file `.lock` in it.

    The folder is created if missing, and removed again if it is left empty.

    Raises:
      LockedError: another process works in it.
      OSError: the lock cannot be written.
    """
    folder = epath.Path(folder)
    with _folder(folder), _held(folder / ".lock", str(folder), LeaseTimes()):
        yield


def holder_of(folder: epath.PathLike) -> Holder | None:
    """Returns who works in `folder`, as far as files tell; None if nobody does.

    The lock is not touched, so that whoever wants it is not refused meanwhile. A
    process of this machine that is gone works no more. Of a process elsewhere it is
    known only in a bucket, by its renewals.

    Raises:
      OSError: the lock cannot be read.
    """
    path = epath.Path(folder) / ".lock"
    try:
        holder, written = read_holder(path.read_text()), path.stat().mtime
    except FileNotFoundError:
        return None
    if holder is None:
        return None
    if holder.host == socket.gethostname() and not _is_running(holder.pid):
        return None
    is_over = time.time() - written > 2 * LeaseTimes().ends_after
    return None if is_over and not is_local(path) else holder


@contextlib.contextmanager
def alone_at(output: epath.PathLike) -> Iterator[int | None]:
    """Keeps other processes from writing `output`, by a file beside it.

    Yields:
      The descriptor of the lock: a child that inherits it holds the lock too, until it
      ends. None for a lease, which ends with this process.

    Raises:
      LockedError: another process writes it.
      OSError: the lock cannot be written.
    """
    output = epath.Path(output)
    with _folder(output.parent):
        path = output.parent / f".{output.name}.lock"
        with _held(path, str(output), LeaseTimes()) as descriptor:
            yield descriptor


@contextlib.contextmanager
def _held(path: epath.Path, what: str, times: LeaseTimes) -> Iterator[int | None]:
    if is_local(path):
        try:
            file = _locked(path, what)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        else:
            try:
                yield file.fileno()
            finally:
                path.unlink(missing_ok=True)  # Before it is free for others.
                file.close()
            return
    with leased(path, what, times):
        yield None


def _locked(path: epath.Path, what: str) -> IO[str]:
    """Returns the lock file, locked; it is free once the file is closed."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one who held it may have removed it since it was opened.
            if _is_still_at(path, file):
                file.truncate(0)
                file.write(Holder.me().to_json())
                file.flush()
                return file
        except BlockingIOError as error:
            file.seek(0)
            with file:
                raise refusal(what, read_holder(file.read())) from error
        except BaseException:
            file.close()
            raise
        file.close()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It is another user's.
    return True


def _is_still_at(path: epath.Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _folder(folder: epath.Path) -> Iterator[None]:
    """Makes a folder if it is missing, and removes it again if it is left empty."""
    missing = []
    at = folder
    while is_local(folder) and not at.exists():
        missing.append(at)
        at = at.parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for each in missing:
            with contextlib.suppress(OSError):
                os.rmdir(each)  # Fails where something was written.
