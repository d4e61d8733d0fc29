"""Standard streams that may fail without ending the work that writes to them."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO


@contextlib.contextmanager
def lossy_stderr() -> Iterator[None]:
    """Makes standard error drop what it cannot take, rather than raise.

    Its reader may be gone (`2>&1 | head -1`), its disk full, or it may be closed
    (`2>&-`). Work is worth more than its log.
    """
    fill_closed_descriptors()
    with contextlib.redirect_stderr(Lossy(sys.stderr)):
        yield


@contextlib.contextmanager
def lossy_stdout() -> Iterator[None]:
    """Does for standard output what `lossy_stderr` does for standard error."""
    with contextlib.redirect_stdout(Lossy(sys.stdout)):
        yield


class Lossy(io.TextIOBase):
    """A text stream that drops what cannot be written, and later says how much."""

    def __init__(self, stream: TextIO | None):
        """Writes to `stream`; None: nowhere."""
        self._stream = stream
        self._lost, self._why = 0, ""

    def write(self, text: str) -> int:
        """Writes `text`, and first how many lines before it were lost."""
        if self._stream is None:
            return len(text)
        try:
            if self._lost:
                self._stream.write(
                    f"salt_jax: {self._lost} writes to this log failed ({self._why}).\n"
                )
                self._stream.flush()
                self._lost = 0
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError) as error:  # ValueError: it was closed.
            self._lost, self._why = self._lost + 1, str(error)
            _give_up(self._stream, error)
        return len(text)

    def flush(self) -> None:
        """Does nothing: each write is flushed."""

    def isatty(self) -> bool:
        """Returns whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def writable(self) -> bool:
        """Returns True."""
        return True

    def fileno(self) -> int:
        """Returns the descriptor of the stream."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    @property
    def encoding(self) -> Any:  # type: ignore[override]
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", "utf-8")


def fill_closed_descriptors() -> None:
    """Opens the null device as each of descriptors 0 to 2 that is closed.

    The next file would get its number, and whatever a library writes to it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def has_no_reader(stream: TextIO | None) -> bool:
    """Returns whether a stream is a pipe that nobody reads any more."""
    poll = select.poll()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        poll.register(stream.fileno(), select.POLLOUT)  # type: ignore[union-attr]
        return any(event & select.POLLERR for _, event in poll.poll(0))
    return False


def flush_at_exit(stream: TextIO | None) -> OSError | None:
    """Flushes a standard stream, which nothing writes to any more.

    Returns:
      The error if it cannot be flushed. The stream then leads nowhere, so that Python
      does not complain of it once more.
    """
    try:
        if stream is not None:
            stream.flush()
    except OSError as error:
        to_nowhere(stream)
        return error
    return None


def to_nowhere(stream: TextIO | None) -> None:
    """Leads the descriptor of a stream to the null device."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


def _give_up(stream: TextIO, error: Exception) -> None:
    # A full disk may have space again; a reader does not come back.
    if isinstance(error, BrokenPipeError):
        to_nowhere(stream)
