"""Process 0's switchboard: every process is connected to it, process 0 too.

One port serves the messages of salt_jax and the connections of JAX, whose service
listens on this host only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from typing import Any

from salt_jax.processes import judge, relay
from salt_jax.processes.agreement import difference
from salt_jax.processes.judge import Seat
from salt_jax.processes.messages import (
    BEAT_SECONDS,
    MAX_BYTES,
    Message,
    receive,
    send,
)

_FAREWELL_SECONDS = 5.0  # For the others to hear of the end before process 0 ends.


class Switchboard:
    """Knows who is in the job, compares what they say, and tells all when it ends."""

    def __init__(self, count: int, jax_port: int, *, join_seconds: float):
        """Expects `count` processes within `join_seconds`."""
        self._count, self._jax_port = count, jax_port
        self._join_seconds = join_seconds
        self._seats: dict[int, Seat] = {}
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._facts: dict[str, dict[int, dict[str, Any]]] = {}
        self._done: set[int] = set()
        self._over = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, port: int) -> None:
        """Begins to accept processes, on all interfaces.

        Raises:
          OSError: the port is taken.
        """
        await asyncio.start_server(self._serve, port=port, limit=MAX_BYTES)
        self._go(self._watch())

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serves one connection: of JAX, or of a process."""
        try:
            begun = await reader.readexactly(len(relay.HTTP2))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return
        if begun == relay.HTTP2:
            host, port = "127.0.0.1", self._jax_port
            await relay.join(reader, writer, host, port, begun=begun)
            return
        hello = await receive(reader, begun)
        if hello is None or hello.kind != "hello":
            writer.close()
            return
        if cause := self._misfit(hello):
            await send(writer, Message(kind="over", text=cause, code=2))
            writer.close()
            return
        await self._seat(hello, reader, writer)

    def _misfit(self, hello: Message) -> str:
        """Returns why a process cannot join; empty if it can."""
        if hello.count != self._count:
            return (
                f"process {hello.index} ({hello.host}) was started as one of "
                f"{hello.count}, process 0 as one of {self._count}"
            )
        if hello.index in self._seats:
            return (
                f"a second process {hello.index} came from {hello.host}: "
                f"{self._seats[hello.index]} has joined already"
            )
        return ""

    async def _seat(
        self,
        hello: Message,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Lets a process join, and listens to it until it is gone."""
        seat = Seat(hello.index, hello.host, hello.pid)
        self._seats[seat.index], self._writers[seat.index] = seat, writer
        if len(self._seats) == self._count:
            self._broadcast(Message(kind="start"))
        while (message := await receive(reader)) is not None:
            seat.silent_ticks = 0
            self._hear(seat, message)
        del self._writers[seat.index]
        writer.close()
        self._end(judge.vanished(seat), judge.TEMPORARY)
        if self._over and list(self._writers) == [0]:
            self._go(send(self._writers[0], Message(kind="alone")))

    def _hear(self, seat: Seat, message: Message) -> None:
        if message.kind == "beat":
            seat.notes, seat.overdue = message.notes, message.overdue
        elif message.kind == "facts":
            self._compare(seat, message)
        elif message.kind == "failed":
            self._end(f"{seat} failed: {message.text}", message.code, spoke=seat.index)
        elif message.kind == "done":
            self._done.add(seat.index)
            if len(self._done) == self._count:
                self._over = True  # Whoever leaves now is no loss.
                self._broadcast(Message(kind="done"))

    def _compare(self, seat: Seat, message: Message) -> None:
        """Answers all once the facts of all are there."""
        told = self._facts.setdefault(message.name, {})
        told[seat.index] = message.facts
        if len(told) < self._count:
            return
        del self._facts[message.name]
        text = difference(told, {i: str(seat) for i, seat in self._seats.items()})
        self._over |= bool(text)  # All will end, in any order.
        kind = "differ" if text else "agreed"
        self._broadcast(Message(kind=kind, name=message.name, text=text))

    async def _watch(self) -> None:
        """Tells all that the switchboard is there, and ends a job that cannot go on."""
        waited = 0.0
        while not self._over:
            await asyncio.sleep(BEAT_SECONDS)
            if len(self._seats) < self._count:
                waited += BEAT_SECONDS
                if waited >= self._join_seconds:
                    cause = judge.never_joined(self._seats, self._count, waited)
                    self._end(cause, judge.TEMPORARY)
            for seat in self._seats.values():
                seat.silent_ticks += 1
            if found := judge.verdict(self._seats):
                self._end(found, judge.TEMPORARY)
            absent = judge.missing(self._seats, self._count)
            self._broadcast(Message(kind="pulse", missing=absent))

    def _end(self, cause: str, code: int, *, spoke: int | None = None) -> None:
        """Tells all why the job ends; the first cause counts.

        Args:
          cause: What happened, and to which process.
          code: The exit code of the others.
          spoke: The process that told the cause itself.
        """
        if not self._over:
            self._over = True
            self._go(self._tell_of_the_end(cause, code, spoke))

    async def _tell_of_the_end(self, cause: str, code: int, spoke: int | None) -> None:
        """Process 0 hears last: the connections of all others end with it."""
        for index in [*sorted(self._others()), 0]:
            if index == 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_FAREWELL_SECONDS):
                        while self._others():
                            await asyncio.sleep(0.05)
            kind = "ended" if index == spoke else "over"
            if index in self._writers:
                message = Message(kind=kind, text=cause, code=code)
                self._go(send(self._writers[index], message))

    def _others(self) -> Mapping[int, asyncio.StreamWriter]:
        return {index: x for index, x in self._writers.items() if index != 0}

    def _broadcast(self, message: Message) -> None:
        """Sends a message to all, and waits for none that does not read."""
        for writer in self._writers.values():
            self._go(send(writer, message))
