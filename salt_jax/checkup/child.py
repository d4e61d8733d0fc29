"""The process that runs checks one after another: salt_jax starts it.

    python -m salt_jax.checkup.child FOLDER small|full NAME=MODULE:FUNCTION...

It ends at the first check that raises: the device may then be in any state. It also
ends, with the processes that it started, once its standard input is closed: so nothing
holds the device after the process that started it was killed.
"""

from __future__ import annotations

import os
import pathlib
import signal
import sys
import threading
import traceback
from collections.abc import Sequence

from salt_jax.checkup.protocol import Said
from salt_jax.checkup.values import Check, Device, Setting
from salt_jax.files import records

DEVICE = "device.json"


def main(arguments: Sequence[str]) -> int:
    """Runs the checks; returns 1 if one raised."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, size, *named = arguments
    for name, _, function in (each.partition("=") for each in named):
        check = Check(name=name, title=name, function=function, seconds=0)
        said = Said(pathlib.Path(folder), name)
        try:
            setting = Setting(
                folder=pathlib.Path(folder),
                small=size == "small",
                device=device_in(pathlib.Path(folder)),
            )
            for line in check.open()(setting):
                said.line(line)
        except Exception as error:
            traceback.print_exc()
            said.ended(f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])
            return 1
        said.ended(None)
    return 0


def device_in(folder: pathlib.Path) -> Device:
    """Returns the devices that the first check found; none before it has."""
    if not (folder / DEVICE).exists():
        return Device(platform="unknown", kind="unknown", count=0)
    return records.read_record(folder / DEVICE, Device, remedy="run the check again")


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
