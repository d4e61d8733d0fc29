"""Failures of a machine, told apart from damaged files, and retried if they may pass.

Libraries raise them under many types: TensorStore reports a full table of open files as
ValueError("[OS error 24: EMFILE ...]"), JAX a dead peer as RuntimeError("Gloo ...").
"""

from __future__ import annotations

import dataclasses
import errno
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from absl import logging

Value = TypeVar("Value")

DELAYS = (1.0, 5.0, 20.0)  # Seconds to wait before each further attempt.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """A kind of failure that is not in the files' contents."""

    name: str
    remedy: str  # What a person does about it.
    passes: bool  # Whether the same call may succeed in a while.


STORAGE = Failure(
    name="the storage failed",
    remedy="check the disk or the network and run the same command again",
    passes=True,
)
BUSY = Failure(
    name="the storage did not answer",
    remedy="run the same command again once it does",
    passes=True,
)
OPEN_FILES = Failure(
    name="too many files are open",
    remedy="raise the limit with `ulimit -n` and run the same command again",
    passes=True,
)
NO_ACCESS = Failure(
    name="access was refused",
    remedy="check who owns the files, or the credentials of the bucket",
    passes=False,
)
FULL = Failure(
    name="there is no space left", remedy="make room on the disk", passes=False
)
MEMORY = Failure(
    name="memory ran out",
    remedy="use more devices or hosts with more memory",
    passes=False,
)
PEERS = Failure(
    name="another process failed or cannot be reached",
    remedy="look at its log and start all processes again",
    passes=False,
)

_BY_ERRNO = {
    STORAGE: ("EIO", "ESTALE", "ENODEV", "ENXIO", "EREMOTEIO"),
    BUSY: (
        *("EAGAIN", "EBUSY", "EINTR", "ETIMEDOUT", "ECONNREFUSED", "ECONNRESET"),
        *("ECONNABORTED", "EPIPE", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN"),
        *("ENETUNREACH", "ENETRESET", "ENOTCONN", "ESHUTDOWN"),
    ),
    OPEN_FILES: ("EMFILE", "ENFILE"),
    NO_ACCESS: ("EACCES", "EPERM", "EROFS"),
    FULL: ("ENOSPC", "EDQUOT", "EFBIG"),
    MEMORY: ("ENOMEM",),
}
_ERRNO_NAMES = {name: kind for kind, names in _BY_ERRNO.items() for name in names}
_ERRNOS = {
    getattr(errno, name): kind
    for name, kind in _ERRNO_NAMES.items()
    if hasattr(errno, name)
}
_OS_ERROR = re.compile(r"\[OS error (\d+)|\[Errno (\d+)\]")
# The status codes of TensorStore, XLA and gRPC begin a message, or follow another's.
_STATUS = {
    "UNAVAILABLE": BUSY,
    "DEADLINE_EXCEEDED": BUSY,
    "ABORTED": BUSY,
    "PERMISSION_DENIED": NO_ACCESS,
    "UNAUTHENTICATED": NO_ACCESS,
    "RESOURCE_EXHAUSTED": MEMORY,
}
_STATUS_CODE = re.compile(rf"(?:^|: )({'|'.join(_STATUS)}): ")
_COLLECTIVE = re.compile(
    r"\bGloo\b|\bNCCL\b|coordination service|heartbeat|peer task|Barrier (?:timed|fail)"
)


class MachineError(OSError):
    """A failure of the machine, its storage or its network; the files may be whole."""


def failure_of(error: BaseException) -> Failure | None:
    """Returns the kind of failure behind `error`, or None if it is another error.

    The errors that caused it are looked at too, the outermost first.
    """
    for each in _chain(error):
        kind = _kind(each)
        if kind is not None:
            return kind
    return None


def raise_if_machine(error: BaseException, doing: str) -> None:
    """Raises MachineError if `error` is a failure of the machine.

    Args:
      error: What a reader or writer raised.
      doing: What was being done, such as "Reading runs/mine/params", for the message.

    Raises:
      MachineError: it is one; the message says what failed and what to do.
    """
    kind = failure_of(error)
    if kind is not None:
        said = " ".join(str(error).split())[:200]
        raise MachineError(
            f"{doing} failed: {kind.name} ({type(error).__name__}: {said}). Nothing "
            f"is known to be damaged: {kind.remedy}."
        ) from error


def retried(
    function: Callable[[], Value],
    doing: str,
    *,
    delays: Sequence[float] = DELAYS,
    sleep: Callable[[float], None] = time.sleep,
) -> Value:
    """Calls `function`, and again after each delay while the failure may pass.

    Args:
      function: What to call; it must not need other processes.
      doing: What it does, such as "Reading runs/mine/params", for messages.
      delays: Seconds to wait before the second and each further attempt.
      sleep: Waits for a number of seconds.

    Raises:
      MachineError: the failure did not pass, or cannot.
      Exception: `function` raised another error; it is raised unchanged at once.
    """
    for delay in delays:
        try:
            return function()
        except Exception as error:
            kind = failure_of(error)
            if kind is None or not kind.passes:
                raise_if_machine(error, doing)
                raise
            logging.warning("%s: %s; trying again in %g s.", doing, kind.name, delay)
        sleep(delay)
    try:
        return function()
    except Exception as error:
        raise_if_machine(error, doing)
        raise


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        left += getattr(each, "exceptions", ())  # Of an ExceptionGroup.
        left += [each.__cause__, each.__context__]


def _kind(error: BaseException) -> Failure | None:
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, TimeoutError):
        return BUSY
    if isinstance(error, OSError) and error.errno is not None:
        return _ERRNOS.get(error.errno)
    message = str(error)
    if _COLLECTIVE.search(message):
        return PEERS
    number = _OS_ERROR.search(message)
    if number:
        return _ERRNOS.get(int(number[1] or number[2]))
    status = _STATUS_CODE.search(message)
    return _STATUS[status[1]] if status else None
