"""This process's connection to the switchboard of its job, on a thread of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from absl import logging

from salt_jax.processes import relay
from salt_jax.processes.cluster import Cluster
from salt_jax.processes.judge import SILENT_SECONDS, TEMPORARY
from salt_jax.processes.messages import (
    BEAT_SECONDS,
    MAX_BYTES,
    Message,
    receive,
    send,
)
from salt_jax.processes.pace import Pace
from salt_jax.processes.switchboard import Switchboard

_RETRY_SECONDS, _REPORT_SECONDS = 0.2, 30.0


class Member:
    """Tells the switchboard of this process, and hears from it how the others are.

    `on_end(cause, code)` is called on the thread, once, when the job must end.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        pace: Pace,
        on_end: Callable[[str, int], None],
        join_seconds: float,
    ):
        """Starts the thread, and on process 0 the switchboard."""
        self._cluster, self._pace, self._on_end = cluster, pace, on_end
        self._join_seconds = join_seconds
        self._jax_port = 0
        self._silent_ticks = 0
        self._report_at = time.monotonic() + _REPORT_SECONDS
        self._ending = False
        self._writer: asyncio.StreamWriter | None = None
        self._answers: dict[str, Message] = {}
        self._answered = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        threading.Thread(target=self._run, name="processes", daemon=True).start()

    @property
    def jax_address(self) -> str:
        """Where JAX's client of this process connects to, once the job has started."""
        return f"127.0.0.1:{self._jax_port}"

    def wait_for(self, answer: str, seconds: float | None = None) -> Message | None:
        """Returns the answer of the switchboard, such as "start"; None if none came."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._answered:
            while answer not in self._answers:
                if deadline is not None and time.monotonic() > deadline:
                    return None
                self._answered.wait(0.5)  # In turns, so that signals are handled.
            return self._answers.pop(answer)

    def say(self, message: Message) -> None:
        """Sends a message from any thread."""
        self._loop.call_soon_threadsafe(self._say, message)

    def expect_the_end(self) -> None:
        """Lets the others leave: their absence is no failure any more."""
        self._ending = True

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._live())

    async def _live(self) -> None:
        try:
            if self._cluster.index == 0:
                await self._open_switchboard()
            else:
                await self._open_relay()
            reader = await self._connect()
        except TimeoutError as error:
            self._end(str(error))
            return
        except OSError as error:
            self._end(f"port {self._cluster.port} cannot be opened ({error})", 1)
            return
        self._go(self._beat())
        while (message := await receive(reader)) is not None:
            self._silent_ticks = 0
            self._hear(message)
        self._lost()

    async def _open_switchboard(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._jax_port = free.getsockname()[1]
        board = Switchboard(
            self._cluster.count, self._jax_port, join_seconds=self._join_seconds
        )
        await board.listen(self._cluster.port)

    async def _open_relay(self) -> None:
        """Opens what JAX's client of this process connects to."""

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            host, port = self._cluster.host, self._cluster.port
            await relay.join(reader, writer, host, port, on_far_close=self._lost)

        server = await asyncio.start_server(serve, host="127.0.0.1")
        self._jax_port = server.sockets[0].getsockname()[1]

    async def _connect(self) -> asyncio.StreamReader:
        """Says hello to the switchboard, as soon as it is there."""
        cluster = self._cluster
        host = "127.0.0.1" if cluster.index == 0 else cluster.host
        deadline = time.monotonic() + self._join_seconds
        while True:
            try:
                reader, writer = await asyncio.open_connection(
                    host, cluster.port, limit=MAX_BYTES
                )
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{self._zero()} has not answered within "
                        f"{self._join_seconds:.0f} s ({error})"
                    ) from error
                await asyncio.sleep(_RETRY_SECONDS)
        hello = Message(
            kind="hello",
            index=cluster.index,
            count=cluster.count,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        await send(writer, hello)
        self._writer = writer
        return reader

    async def _beat(self) -> None:
        """Says that this process is alive; notices when process 0 is silent."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            notes, overdue = self._pace.notes, self._pace.overdue()
            self._say(Message(kind="beat", notes=notes, overdue=overdue))
            self._silent_ticks += 1
            if self._silent_ticks * BEAT_SECONDS >= SILENT_SECONDS:
                self._end(
                    f"{self._zero()} has been silent for {SILENT_SECONDS:.0f} s: it is "
                    "frozen, or its network is down"
                )

    def _hear(self, message: Message) -> None:
        if message.kind == "over" and not self._ending:
            self._end(message.text, message.code)
        elif message.kind in ("over", "ended"):
            self._answer(Message(kind="ended"))
        elif message.kind == "pulse":
            if message.missing:
                self._report(message.missing)
        else:
            self._answer(message)

    def _answer(self, message: Message) -> None:
        with self._answered:
            self._answers[message.name or message.kind] = message
            self._answered.notify_all()

    def _report(self, missing: list[int]) -> None:
        """Says who is missing, every `_REPORT_SECONDS`."""
        if time.monotonic() < self._report_at:
            return
        self._report_at += _REPORT_SECONDS
        here = self._cluster.count - len(missing)
        logging.info(
            "%d of %d processes have joined; waiting for %s.",
            here,
            self._cluster.count,
            ", ".join(map(str, missing[:10])),
        )

    def _lost(self) -> None:
        self._end(
            f"{self._zero()} ended without a word: killed (SIGKILL, or out of memory), "
            "or crashed"
        )

    def _end(self, cause: str, code: int = TEMPORARY) -> None:
        if not self._ending:
            self._ending = True
            self._on_end(cause, code)

    def _say(self, message: Message) -> None:
        if self._writer is not None:
            self._go(send(self._writer, message))

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _zero(self) -> str:
        return f"process 0 ({self._cluster.coordinator})"
