"""The bill of a run: what it has cost so far, in a file of its directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from etils import epath

from salt_jax.files.records import read_record, write_record

BILL_FILE = "bill.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bill:
    """The cost of a run over all its attempts, and what they have read.

    Seconds count lost attempts, FLOPs and rows do not: steps that are made again count
    once. Bytes are those of records of prepared sequences, read-ahead included.
    """

    devices: int  # Of the last attempt; 0 if none is used.
    device_kind: str
    chip_seconds: float  # Wall-clock seconds times devices, summed over attempts.
    seconds: Mapping[str, float]  # Wall-clock, by part.
    flops: Mapping[str, int]  # By formula, by part.
    rows: int
    tokens: int  # Padding counts.
    bytes_read: int

    @property
    def total_seconds(self) -> float:
        """The seconds of all parts."""
        return sum(self.seconds.values())

    @property
    def total_flops(self) -> int:
        """The FLOPs of all parts."""
        return sum(self.flops.values())

    def write(self, workdir: epath.PathLike) -> None:
        """Writes `bill.json` into `workdir`.

        Raises:
          OSError: it cannot be written; what was there is still there.
        """
        write_record(epath.Path(workdir) / BILL_FILE, dataclasses.asdict(self))


def add_seconds(
    workdir: epath.PathLike,
    part: str,
    seconds: float,
    *,
    rows: int = 0,
    tokens: int = 0,
) -> None:
    """Adds seconds to the bill of work on no device, in `workdir`.

    Args:
      workdir: The folder that the work writes.
      part: What they were spent on.
      seconds: Of this attempt; those of earlier ones stay.
      rows: The rows that there are now.
      tokens: The tokens that there are now.

    Raises:
      ValueError: the bill that is there is damaged.
      OSError: it cannot be read or written.
    """
    before = read_bill(workdir)
    earlier = {} if before is None else dict(before.seconds)
    Bill(
        devices=0,
        device_kind="none",
        chip_seconds=0.0,
        seconds=earlier | {part: earlier.get(part, 0.0) + seconds},
        flops={},
        rows=rows,
        tokens=tokens,
        bytes_read=0,
    ).write(workdir)


def read_bill(workdir: epath.PathLike) -> Bill | None:
    """Returns the bill in `workdir`; None if there is none.

    Raises:
      ValueError: it is damaged.
      OSError: it cannot be read.
    """
    path = epath.Path(workdir) / BILL_FILE
    if not path.exists():
        return None
    return read_record(path, Bill, remedy="remove it, or resume the run to renew it")
