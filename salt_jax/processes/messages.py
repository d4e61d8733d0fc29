"""What processes tell each other: one JSON object a line.

A member says "hello" once, "beat" every `BEAT_SECONDS`, "facts" to be compared with the
others', "failed" when it ends early and "done" at its end. The switchboard answers
"start" when all have joined, "pulse" every `BEAT_SECONDS`, "agreed" or "differ",
"ended" to the process that failed and "over" to the others, "done" when all are, and
"alone" to process 0 when the others have left.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

from salt_jax.files.records import decode

BEAT_SECONDS = 2.0
MAX_BYTES = 64 << 20  # Of a line. The facts of an experiment take some kilobytes.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """One line between a process and the switchboard; unused fields have defaults."""

    kind: str
    index: int = -1  # The process that speaks, or that is spoken of.
    count: int = 0  # Processes.
    host: str = ""
    pid: int = 0
    text: str = ""  # A cause, or a difference.
    code: int = 0  # The exit code for a cause.
    name: str = ""  # What the facts are about.
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    missing: list[int] = dataclasses.field(default_factory=list)
    notes: int = 0  # Signs of progress so far.
    overdue: str = ""  # What the process is stuck in; empty while it is not.


def encode(message: Message) -> bytes:
    """Returns the line of a message."""
    return json.dumps(dataclasses.asdict(message)).encode() + b"\n"


async def receive(reader: asyncio.StreamReader, begun: bytes = b"") -> Message | None:
    """Returns the next message; None if the other side is gone, or says nonsense.

    Args:
      reader: Where to read from.
      begun: Bytes of the message that were read already.
    """
    try:
        line = begun + await reader.readline()
        if not line.endswith(b"\n"):
            return None
        return decode(line, Message, where="A message", remedy="restart the job")
    except (OSError, ValueError):
        return None


async def send(writer: asyncio.StreamWriter, message: Message) -> None:
    """Sends a message; a lost connection is noticed by whoever reads from it."""
    try:
        writer.write(encode(message))
        await writer.drain()
    except OSError:
        return
