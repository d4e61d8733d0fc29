"""Prints our training step beside what others make of the same step.

Run by `bash launch/bench.sh --peers`, which installs the others. Each of them is
measured against ours in two processes that keep what they compiled and take steps in
turn: ours, theirs, ours, theirs in each round. What else the machine does falls on
both, and a ratio is the median of those of the rounds, beside their range. Both start
from the same parameters, read the same batch, and must come to the same losses.
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

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[2]
OURS = "salt_jax"
WORKERS = {
    OURS: (sys.executable, "salt_worker.py"),
    "PyTorch": (".venv-peers/bin/python", "torch_worker.py"),
    "Tunix": (".venv-peers/bin/python", "tunix_worker.py"),
    "MaxText": (".venv-maxtext/bin/python", "maxtext_worker.py"),
}
ABSENT = {
    "Simply": "it is not in the package index, where the name is another project's",
}
ROWS, LENGTH = 4, 256
WARM_UP = 1  # Rounds that compile, and fill what allocators keep.
TURNS = 2  # Steps that each of both takes in a round.
LOSS_TOLERANCE = 1e-3  # Of the loss: differences of rounding grow step by step.


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one system took."""

    versions: str
    seconds: Sequence[float]  # Of each step but those that warm up.
    losses: Sequence[float]  # Before every step.
    imported_mib: float  # The peak of memory before there was a model.
    peak_mib: float


class Worker:
    """A system in a process of its own."""

    def __init__(self, name: str, sizes: dict[str, Any]):
        self._name = name
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115
        python, script = WORKERS[name]
        self._process = subprocess.Popen(
            [ROOT / python, FOLDER / script, json.dumps(sizes)],
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
            seconds=[step["seconds"] for step in self.steps[WARM_UP * TURNS :]],
            losses=[step["loss"] for step in self.steps],
        )

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            self._said.seek(0)
            raise RuntimeError(f"{self._name} failed:\n{self._said.read()[-4000:]}")
        return json.loads(line)


def measure(name: str, sizes: dict[str, Any], rounds: int) -> tuple[Measured, Measured]:
    """Returns what we took, and what `name` took, for the same steps in turn."""
    pair = [Worker(one, sizes) for one in (OURS, name)]
    for _ in range((WARM_UP + rounds) * TURNS):
        for worker in pair:
            worker.step()
    ours, theirs = (worker.finish() for worker in pair)
    return ours, theirs


def time_ratios(theirs: Measured, ours: Measured) -> list[float]:
    """Returns, for each round, how many times as long as ours their steps took."""

    def rounds(measured: Measured) -> list[float]:
        seconds = iter(measured.seconds)
        return [sum(turns) for turns in zip(*[seconds] * TURNS, strict=True)]

    pairs = zip(rounds(theirs), rounds(ours), strict=True)
    return [their / our for their, our in pairs]


def check_losses(name: str, theirs: Measured, ours: Measured) -> None:
    """Refuses a system that does not compute the same.

    Raises:
      ValueError: at some step, the losses differ.
    """
    for step, (their, our) in enumerate(zip(theirs.losses, ours.losses, strict=True)):
        # Not the other way round: NaN is refused.
        if not abs(their - our) <= LOSS_TOLERANCE * our:
            raise ValueError(
                f"At step {step} the loss of {name} is {their:.4f} and that of "
                f"{OURS} {our:.4f}: they do not compute the same."
            )


HEADER = (
    f"{'':<10}{'s/step':>8}{'ours':>8}{'time / ours':>13}{'range':>14}"
    f"{'peak MiB':>10}{'ours':>8}{'/ ours':>8}{'imports':>9}"
)


def row(name: str, theirs: Measured, ours: Measured) -> str:
    """Returns a line of the table: their step beside ours of the same rounds."""
    ratios = time_ratios(theirs, ours)
    seconds, our_seconds = (statistics.median(x.seconds) for x in (theirs, ours))
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return (
        f"{name:<10}{seconds:8.2f}{our_seconds:8.2f}{statistics.median(ratios):13.2f}"
        f"{spread:>14}{theirs.peak_mib:10,.0f}{ours.peak_mib:8,.0f}"
        f"{theirs.peak_mib / ours.peak_mib:8.2f}{theirs.imported_mib:9,.0f}"
    )


def main() -> None:
    """Prints a table for each vocabulary and each kind of step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabs", type=int, nargs="+", default=[32_768, 131_072])
    parser.add_argument("--rounds", type=int, default=5)
    others = [name for name in WORKERS if name != OURS]
    parser.add_argument("--only", nargs="+", choices=others, default=others)
    parser.add_argument("--plain", action="store_true", help="steps without a teacher")
    parser.add_argument(
        "--huge_pages", action="store_true", help="give all of them huge pages (glibc)"
    )
    flags = parser.parse_args()
    if flags.huge_pages:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    # Threads that wait for each other, as PyTorch's do, lose most to other work.
    print(f"other work here: a load of {os.getloadavg()[0]:.1f}; below 0.3 is quiet")
    absent = ABSENT | {
        name: f"{WORKERS[name][0]} is missing: see the output of launch/bench.sh"
        for name in flags.only
        if not (ROOT / WORKERS[name][0]).exists()
    }
    for name, why in absent.items():
        print(f"{name} is not measured: {why}.")
    kind = "plain step" if flags.plain else "step with a teacher"
    kind += ", huge pages" if flags.huge_pages else ""
    for vocab in flags.vocabs:
        print(
            f"\n{kind}, vocabulary {vocab:,}, {ROWS} x {LENGTH} tokens, "
            f"{flags.rounds} rounds of {TURNS} steps each in turn\n{HEADER}"
        )
        sizes = {"vocab": vocab, "batch": ROWS, "length": LENGTH}
        if flags.plain:
            sizes["kd_weight"] = None
        for name in flags.only:
            if name in absent:
                continue
            ours, theirs = measure(name, sizes, flags.rounds)
            check_losses(name, theirs, ours)
            print(row(name, theirs, ours), f" ({theirs.versions})", flush=True)


if __name__ == "__main__":
    main()
