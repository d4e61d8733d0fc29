"""Files that grow while work goes on, a whole piece at a time."""

from __future__ import annotations

import contextlib
import os

from etils import epath

from salt_jax.files.reading import named_errors


def append(path: epath.PathLike, piece: bytes) -> None:
    """Adds a piece at the end of a local file, which need not exist.

    Raises:
      OSError: there is no room, or another failure; nothing of the piece is left.
    """
    with named_errors(path):
        _append(os.fspath(path), piece)


def _append(path: str, piece: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    size = os.fstat(descriptor).st_size
    try:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)
