"""The processes of a job, and which of them this is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

# Variables, by name: of the environment, or of a machine's metadata.
Variables = Mapping[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The processes of a job, and which of them this is."""

    kind: str
    coordinator: str  # HOST:PORT of process 0.
    count: int
    index: int
    device: int | None = None  # The only local device to use; None: all of them.

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"{self.kind}: process {self.index} of {self.count} does not exist; "
                f"indices are 0 to {self.count - 1}."
            )
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(
                f"{self.kind}: the coordinator {self.coordinator!r} is not HOST:PORT."
            )

    @property
    def host(self) -> str:
        """The host of process 0."""
        return self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port at which process 0 listens."""
        return int(self.coordinator.rpartition(":")[2])

    def __str__(self) -> str:
        devices = "" if self.device is None else f", local device {self.device} only"
        return (
            f"{self.kind}: process {self.index} of {self.count}, coordinator "
            f"{self.coordinator}{devices}"
        )


def parse(text: str) -> Cluster:
    """Returns the cluster that HOST:PORT,COUNT,INDEX names.

    Raises:
      ValueError: `text` is not of this form.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts[1:]):
        raise ValueError(
            f"--distributed={text} is neither auto nor HOST:PORT,COUNT,INDEX."
        )
    return Cluster(
        kind="--distributed",
        coordinator=parts[0],
        count=int(parts[1]),
        index=int(parts[2]),
    )


def number(name: str, text: str | int) -> int:
    """Returns the number that the variable `name` holds.

    Raises:
      ValueError: `text` is not a number.
    """
    if not str(text).isdecimal():
        raise ValueError(f"{name}={text!r} is not a number.")
    return int(text)
