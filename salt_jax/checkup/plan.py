"""The list of checks, in the order in which they run.

What is quick and says whether results are right comes first. A child process runs
several in turn; what starts processes of its own, or reads the highest use of memory,
runs alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from salt_jax.checkup.values import Check

_HERE = "salt_jax.checkup"
DEVICE = Check(
    name="device",
    title="The device, and the rates that it reaches",
    function=f"{_HERE}.device_rates:device",
    seconds=90,
    alone=True,
)
CHECKS = (
    Check(
        name="loss",
        title="Losses and their gradients, against float64 on the host",
        function=f"{_HERE}.loss_checks:loss",
        seconds=90,
    ),
    Check(
        name="attention",
        title="Attention kernels, against the formula in float32",
        function=f"{_HERE}.attention_checks:attention",
        seconds=120,
    ),
    Check(
        name="loss_cost",
        title="The chunked loss beside the dense one: time and memory",
        function=f"{_HERE}.loss_checks:loss_cost",
        seconds=60,
    ),
    Check(
        name="decode",
        title="Decoding with a cache: right, and how fast",
        function=f"{_HERE}.decode_checks:decode",
        seconds=90,
    ),
    Check(
        name="files",
        title="Text prepared, and a teacher written, for the runs below",
        function=f"{_HERE}.run_files:files",
        seconds=60,
    ),
    Check(
        name="steps",
        title="Training steps: time, MFU and memory beside predictions",
        function=f"{_HERE}.step_checks:steps",
        seconds=150,
        alone=True,
    ),
    Check(
        name="run",
        title="A real run of both stages: its metrics",
        function=f"{_HERE}.run_checks:run",
        seconds=120,
        alone=True,
        needs=("files",),
    ),
    Check(
        name="kill_and_resume",
        title="The same run, killed and resumed",
        function=f"{_HERE}.run_checks:kill_and_resume",
        seconds=120,
        alone=True,
        needs=("run",),
    ),
    Check(
        name="saved_steps",
        title="The same run, by compiled steps that were saved and loaded",
        function=f"{_HERE}.run_checks:saved_steps",
        seconds=120,
        alone=True,
        needs=("run",),
    ),
)


def chosen(names: Sequence[str]) -> tuple[Check, ...]:
    """Returns the checks called `names`, and those that they need; () chooses all.

    Raises:
      ValueError: there is no such check.
    """
    known = {check.name: check for check in CHECKS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"There is no check {', '.join(unknown)}: choose from {', '.join(known)}."
        )
    wanted = set(names or known)
    for check in reversed(CHECKS):
        if check.name in wanted:
            wanted |= set(check.needs)
    return tuple(check for check in CHECKS if check.name in wanted)
