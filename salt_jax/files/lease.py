"""Leases: files that name the process at work, and that it keeps renewing.

A bucket has no locks that end with a process. Whoever finds a lease watches whether it
is renewed, so the clocks of two machines need not agree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import msgspec
from absl import logging
from etils import epath


class LockedError(ValueError):
    """Another process works in a directory."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a lock."""

    host: str
    pid: int
    started: str
    command: str
    token: str
    renewals: int = 0  # Of a lease.

    @classmethod
    def me(cls) -> Holder:
        """Returns this process as a holder."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=time.strftime("%Y-%m-%d %H:%M:%S"),
            command=_command_line(),
            token=uuid.uuid4().hex,
        )

    def to_json(self) -> str:
        """Returns the holder as JSON."""
        return json.dumps(dataclasses.asdict(self)) + "\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaseTimes:
    """Times of a lease, in seconds."""

    renewed_every: float = 15.0
    ends_after: float = 60.0  # Without a renewal.
    settled_after: float = 2.0  # Two that take it at once have both written by then.


@contextlib.contextmanager
def leased(
    path: epath.Path,
    what: str,
    times: LeaseTimes,
    *,
    lost: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Holds the lease `path`, and renews it in a thread until the block ends.

    Args:
      path: The file of the lease.
      what: What it protects, for messages.
      times: How often it is renewed, and when it ends.
      lost: Told if another process has taken the lease; default: end this process,
        which must not write any more.

    Raises:
      LockedError: another process keeps renewing the lease.
    """
    _wait_for_end(path, what, times)
    me = Holder.me()
    path.write_text(me.to_json())
    time.sleep(times.settled_after)
    found = _read_at(path)
    if found is None or found.token != me.token:
        raise refusal(what, found)
    over = threading.Event()
    arguments = (path, what, me, times, over, lost or _end_process)
    thread = threading.Thread(target=_renew, args=arguments, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        found = _read_at(path)
        if found is not None and found.token == me.token:
            path.unlink(missing_ok=True)


def _wait_for_end(path: epath.Path, what: str, times: LeaseTimes) -> None:
    """Returns once nobody renews the lease; raises if somebody does."""
    first = _read_at(path)
    if first is None:
        return
    seconds = f"{times.ends_after:.0f} s"
    logging.info("%s: watching for %s.", refusal(what, first), seconds)
    until = time.monotonic() + times.ends_after
    while time.monotonic() < until:
        time.sleep(min(1.0, times.renewed_every / 4))
        now = _read_at(path)
        if now is None:
            return
        if now != first:
            raise refusal(what, now)


def _renew(
    path: epath.Path,
    what: str,
    me: Holder,
    times: LeaseTimes,
    over: threading.Event,
    lost: Callable[[str], None],
) -> None:
    while not over.wait(times.renewed_every):
        try:
            found = _read_at(path)
            if found is not None and found.token != me.token:
                lost(f"This process was taken for dead. {refusal(what, found)}")
                return
            me = dataclasses.replace(me, renewals=me.renewals + 1)
            path.write_text(me.to_json())
        except OSError as error:
            logging.warning("The lease %s could not be renewed (%s).", path, error)


def _end_process(message: str) -> None:
    logging.error("%s", message)
    os._exit(1)


def _command_line() -> str:
    name = os.path.basename(sys.argv[0])
    return shlex.join(["salt_jax" if name == "main.py" else name, *sys.argv[1:]])


def refusal(what: str, holder: Holder | None) -> LockedError:
    """Returns the error that `holder` works in `what`."""
    by = ""
    if holder is not None:
        by = (
            f" (process {holder.pid} on {holder.host}, since {holder.started}, "
            f"`{holder.command}`)"
        )
    return LockedError(
        f"Another process is working in {what}{by}: wait for it, or end it first."
    )


def _read_at(path: epath.Path) -> Holder | None:
    try:
        return read_holder(path.read_text())
    except FileNotFoundError:
        return None


def read_holder(text: str) -> Holder | None:
    """Returns the holder; None if the file is just being written."""
    try:
        return msgspec.json.decode(text, type=Holder)
    except msgspec.MsgspecError:
        return None
