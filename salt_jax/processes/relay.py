"""JAX's own connections between the processes, passed on by salt_jax.

JAX ends a process without a word when its connection to process 0 closes. So JAX's
client in each process connects to a relay in the same process. The relay passes bytes
on, and keeps JAX's side open when the other side closes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# How HTTP/2, which JAX speaks, begins. A `Message` begins with "{".
HTTP2 = b"PRI"
_BLOCK = 1 << 16
_RETRY_SECONDS = 0.1


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes bytes on until either side closes."""
    try:
        while block := await reader.read(_BLOCK):
            writer.write(block)
            await writer.drain()
    except OSError:
        return


async def join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    host: str,
    port: int,
    *,
    begun: bytes = b"",
    on_far_close: Callable[[], None] | None = None,
) -> None:
    """Connects an accepted connection to HOST:PORT, until the near side closes.

    It waits for the far side to listen: JAX's service starts after this.

    Args:
      reader: The near side, where bytes come from.
      writer: The near side, where answers go.
      host: The far host.
      port: The far port.
      begun: Bytes that were read from the near side already.
      on_far_close: Called when the far side closes first; the near side stays open.
        None: it is closed too.
    """
    while True:
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
            break
        except OSError:
            await asyncio.sleep(_RETRY_SECONDS)
    far_writer.write(begun)

    async def answers() -> None:
        await copy(far_reader, writer)
        if on_far_close is None:
            writer.close()
        else:
            on_far_close()

    answering = asyncio.create_task(answers())
    await copy(reader, far_writer)
    answering.cancel()
    far_writer.close()
    writer.close()
