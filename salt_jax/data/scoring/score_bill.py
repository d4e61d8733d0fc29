"""The cost of scoring, in FLOPs and time, summed over all processes.

Each process writes a file of its own beside the scores, `bill-HOST-....json`, with an
entry per shard: its number, the sequences and tokens that were read, their FLOPs, the
wall-clock seconds since the previous entry (the first includes compilation), the
accelerators of the process, and the time of the entry. A shard that two processes
scored counts twice.
"""

from __future__ import annotations

import dataclasses
import socket
import time
import uuid
from collections.abc import Sequence

from etils import epath

from salt_jax.data.prepared.readers import BYTES_READ
from salt_jax.files.bill import Bill as RunBill
from salt_jax.files.records import read_record, write_record

_FILES = "bill-*.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
    shard: int | None  # None: the rest of one that another process wrote first.
    sequences: int
    tokens: int
    flops: float
    seconds: float
    accelerators: int
    ended_at: float  # Unix time, which is comparable across hosts.
    bytes_read: int = 0  # Of records of prepared sequences.


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entries:
    entries: Sequence[_Entry]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bill:
    """The total cost."""

    sequences: int
    tokens: int
    flops: float
    seconds: float  # Wall-clock time during which any process was scoring.
    accelerator_seconds: float  # Seconds times accelerators, summed over processes.
    bytes_read: int

    def as_run_bill(self, *, devices: int, device_kind: str) -> RunBill:
        """Returns the bill in the form that every run has, with one part."""
        return RunBill(
            devices=devices,
            device_kind=device_kind,
            chip_seconds=self.accelerator_seconds,
            seconds={"scoring": self.seconds},
            flops={"scoring": round(self.flops)},
            rows=self.sequences,
            tokens=self.tokens,
            bytes_read=self.bytes_read,
        )


class BillWriter:
    """Records the cost of what one process scores. A context manager."""

    def __init__(
        self,
        path: epath.PathLike,
        *,
        seq_len: int,
        flops_per_token: int,
        num_accelerators: int,
    ):
        name = f"bill-{socket.gethostname()}-{uuid.uuid4().hex}.json"
        self._path = epath.Path(path) / name
        self._seq_len, self._flops = seq_len, flops_per_token
        self._num_accelerators = num_accelerators
        self._entries: list[_Entry] = []
        self._sequences = 0  # Read since the last entry.
        self._billed_at = time.monotonic()
        self._bytes_then = BYTES_READ.total

    def __enter__(self) -> BillWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._sequences:  # The rest of a shard that another process wrote first.
            self.write(None)

    def read(self, num_sequences: int) -> None:
        """Adds sequences that were read."""
        self._sequences += num_sequences

    def write(self, shard: int | None) -> None:
        """Records the sequences and the time since the previous call."""
        now = time.monotonic()
        tokens = self._sequences * self._seq_len
        entry = _Entry(
            shard=shard,
            sequences=self._sequences,
            tokens=tokens,
            flops=float(tokens * self._flops),
            seconds=now - self._billed_at,
            accelerators=self._num_accelerators,
            ended_at=time.time(),
            bytes_read=BYTES_READ.total - self._bytes_then,
        )
        self._bytes_then = BYTES_READ.total
        self._sequences, self._billed_at = 0, now
        self._entries.append(entry)
        # Rewrites the whole file, because objects in a bucket cannot be appended to.
        write_record(self._path, dataclasses.asdict(_Entries(entries=self._entries)))


def read_bill(path: epath.PathLike) -> Bill:
    """Returns the cost of the scores at `path` so far.

    Raises:
      FileNotFoundError: there is no bill.
      ValueError: a bill is damaged.
    """
    entries: list[_Entry] = []
    for file in sorted(epath.Path(path).glob(_FILES)):
        entries += read_record(file, _Entries, remedy="remove it").entries
    if not entries:
        raise FileNotFoundError(f"No {_FILES} at {path}: was it ever scored?")
    spans = [(x.ended_at - x.seconds, x.ended_at) for x in entries]
    return Bill(
        sequences=sum(x.sequences for x in entries),
        tokens=sum(x.tokens for x in entries),
        flops=sum(x.flops for x in entries),
        seconds=_covered(spans),
        accelerator_seconds=sum(x.seconds * x.accelerators for x in entries),
        bytes_read=sum(x.bytes_read for x in entries),
    )


def _covered(spans: list[tuple[float, float]]) -> float:
    """Returns the length of the union of time spans, in seconds."""
    total, covered_to = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, covered_to))
        covered_to = max(covered_to, end)
    return total
