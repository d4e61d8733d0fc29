"""Prints our stage-one step beside what others make of the same distillation.

Run by `bash launch/bench.sh --peers`, which installs the others. Each system has a
process of its own, keeps what it compiled, and takes one step a round, in an order
drawn anew, while the others wait: what else the machine does falls on all of them, and
a ratio is the median of the ratios of the rounds. All start from the same parameters,
read the same batch, and must come to the same losses.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[2]
PEERS = ROOT / ".venv-peers/bin/python"
OURS = "salt_jax"
WORKERS = {
    OURS: (sys.executable, "salt_worker.py"),
    "PyTorch": (PEERS, "torch_worker.py"),
    "Tunix": (PEERS, "tunix_worker.py"),
}
ROWS, LENGTH = 4, 256
WARM_UP = 2  # Rounds that compile, and fill what allocators keep.
LOSS_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one system took."""

    versions: str
    seconds: Sequence[float]  # Of each round but those that warm up.
    losses: Sequence[float]  # Before every step.
    imported_mib: float  # The peak of memory before there was a model.
    peak_mib: float


class Worker:
    """A system in a process of its own."""

    def __init__(self, name: str, sizes: dict[str, int]):
        self._name = name
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        python, script = WORKERS[name]
        self._process = subprocess.Popen(
            [python, FOLDER / script, json.dumps(sizes)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self.start = self._answer()
        self.steps: list[dict[str, float]] = []

    def step(self) -> None:
        """Takes one step."""
        print(file=self._process.stdin, flush=True)
        self.steps.append(self._answer())

    def finish(self) -> Measured:
        """Ends the process, and returns what it took."""
        self._process.stdin.close()
        end = self._answer()
        self._process.wait()
        return Measured(
            **self.start,
            **end,
            seconds=[step["seconds"] for step in self.steps[WARM_UP:]],
            losses=[step["loss"] for step in self.steps],
        )

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            raise RuntimeError(f"{self._name} failed:\n{self._said.read()[-4000:]}")
        return json.loads(line)


def measure(sizes: dict[str, int], rounds: int) -> dict[str, Measured]:
    """Returns what each system took for `rounds` steps, taken in turn."""
    workers = {name: Worker(name, sizes) for name in WORKERS}
    draw = np.random.default_rng(0)
    for _ in range(WARM_UP + rounds):
        for name in draw.permutation(list(workers)):
            workers[name].step()
    return {name: worker.finish() for name, worker in workers.items()}


def time_ratio(measured: Measured, ours: Measured) -> float:
    """Returns how many times as long as ours the steps of `measured` took."""
    pairs = zip(measured.seconds, ours.seconds, strict=True)
    return statistics.median(theirs / our for theirs, our in pairs)


def check_losses(systems: dict[str, Measured]) -> None:
    """Refuses systems that do not compute the same.

    Raises:
      ValueError: at some step, the losses of two systems differ.
    """
    ours = systems[OURS].losses
    for name, measured in systems.items():
        for step, (theirs, our) in enumerate(zip(measured.losses, ours, strict=True)):
            # Not the other way round: NaN is refused.
            if not abs(theirs - our) <= LOSS_TOLERANCE:
                raise ValueError(
                    f"At step {step} the loss of {name} is {theirs:.4f} and that of "
                    f"{OURS} {our:.4f}: they do not compute the same."
                )


def table(systems: dict[str, Measured], num_tokens: int) -> str:
    """Returns a row for each system, for steps of so many tokens."""
    ours = systems[OURS]
    lines = [
        f"{'':<10}{'s/step':>8}{'tokens/s':>10}{'time / ours':>13}"
        f"{'peak MiB':>10}{'/ ours':>8}{'imports':>9}"
    ]
    for name, measured in systems.items():
        seconds = statistics.median(measured.seconds)
        lines.append(
            f"{name:<10}{seconds:8.2f}{num_tokens / seconds:10,.0f}"
            f"{time_ratio(measured, ours):13.2f}{measured.peak_mib:10,.0f}"
            f"{measured.peak_mib / ours.peak_mib:8.2f}{measured.imported_mib:9,.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints a table for each vocabulary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabs", type=int, nargs="+", default=[32_768, 131_072])
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    # Threads that wait for each other, as PyTorch's do, lose most to other work.
    print(f"other work here: a load of {os.getloadavg()[0]:.1f}; below 0.3 is quiet")
    for vocab in flags.vocabs:
        sizes = {"vocab": vocab, "batch": ROWS, "length": LENGTH}
        systems = measure(sizes, flags.rounds)
        if vocab == flags.vocabs[0]:
            for name, measured in systems.items():
                print(f"{name}: {measured.versions}")
        check_losses(systems)
        print(
            f"\nvocabulary {vocab:,}, {ROWS} x {LENGTH} tokens, {flags.rounds} rounds"
        )
        print(table(systems, ROWS * LENGTH))
        losses = systems[OURS].losses
        print(f"all losses from {losses[0]:.4f} to {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
