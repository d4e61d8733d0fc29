"""Reading whole files and their digests, with the file's name in every error."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

from etils import epath


class DamagedFileError(ValueError):
    """A file does not hold what was written: a checksum differs, or it is cut off."""


def read_file(path: epath.PathLike) -> bytes:
    """Returns the contents of a file.

    Raises:
      OSError: the file is missing or cannot be read; the message names it.
    """
    with named_errors(path):
        return epath.Path(path).read_bytes()


def sha256_of(contents: bytes) -> str:
    """Returns the SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(contents).hexdigest()


def sha256_of_file(path: epath.PathLike) -> str:
    """Returns the SHA-256 of a file of any size, in hexadecimal.

    Raises:
      OSError: the file is missing or cannot be read; the message names it.
    """
    with named_errors(path), epath.Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(
    path: epath.PathLike, expected: str, *, recorded_in: epath.PathLike, remedy: str
) -> None:
    """Checks a file against the SHA-256 that was recorded when it was written.

    Args:
      path: The file.
      expected: Its SHA-256.
      recorded_in: The file that says so, for the message.
      remedy: What a person can do, such as "export again".

    Raises:
      DamagedFileError: the file is missing, or holds something else.
      OSError: the file cannot be read.
    """
    if not epath.Path(path).exists():
        raise DamagedFileError(
            f"{path} is missing, and {recorded_in} lists it: {remedy}."
        )
    if (found := sha256_of_file(path)) != expected:
        raise differs(path, found, expected, recorded_in=recorded_in, remedy=remedy)


def is_plain_name(name: str) -> bool:
    """Returns whether `name` names a file of its own folder, and of no other."""
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def differs(
    path: epath.PathLike,
    found: str,
    expected: str,
    *,
    recorded_in: epath.PathLike,
    remedy: str,
) -> DamagedFileError:
    """Returns the error for a file whose SHA-256 is not the recorded one."""
    return DamagedFileError(
        f"{path} is damaged: its SHA-256 is {found[:12]}, not {expected[:12]} as "
        f"{recorded_in} has it: {remedy}."
    )


@contextlib.contextmanager
def named_errors(path: epath.PathLike) -> Iterator[None]:
    """Adds the name of the file to an OSError that lacks it, such as EIO and ENOSPC."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        # The constructor returns the subclass of this number, as the system would.
        raise OSError(error.errno, error.strerror, str(path)) from error
