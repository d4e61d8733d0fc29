"""TensorBoard's event files: scalars, written a record at a time.

tensorboardX has the format. Its own writer is a thread that ends with the first error,
after which training would wait for it.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping

from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from salt_jax.files.appending import append


class EventFile:
    """A new event file of a run, which TensorBoard shows with the earlier ones."""

    def __init__(self, folder: epath.PathLike, *, from_step: int):
        """Names the file; TensorBoard hides earlier scalars of steps after `from_step`.

        Nothing is written before the first scalars.
        """
        self._folder, self._head = epath.Path(folder), _head(from_step + 1)
        name = f"{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._path = self._folder / f"events.out.tfevents.{name}"

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds scalars of a step.

        Raises:
          OSError: they cannot be written; none of them is in the file.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        append(self._path, self._head + _record(_scalars(step, scalars)))
        self._head = b""


def _head(purge_step: int) -> bytes:
    version = Event(step=purge_step, file_version="brain.Event:2")
    start = Event(step=purge_step, session_log=SessionLog(status=SessionLog.START))
    version.wall_time = start.wall_time = time.time()
    return _record(version) + _record(start)


def _scalars(step: int, scalars: Mapping[str, float]) -> Event:
    values = [Summary.Value(tag=k, simple_value=v) for k, v in scalars.items()]
    return Event(step=step, wall_time=time.time(), summary=Summary(value=values))


def _record(event: Event) -> bytes:
    """Returns a TFRecord: length, its check, data, its check."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checks = (struct.pack("<I", masked_crc32c(x)) for x in (length, data))
    return length + next(checks) + data + next(checks)
