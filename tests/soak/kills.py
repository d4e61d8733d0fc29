"""Kills a small two-stage run, resumes it, and compares it with an unbroken one.

    python tests/soak/kills.py --count=40 --seed=0

Each run is killed by SIGKILL one to three times: when it asks for a chosen batch, or at
a random time since its process began. Then it is resumed to its end. It must have the
parameters, the optimizer state and the metrics of the unbroken run to the last bit, the
same checkpoints, and no leftovers.
"""

import argparse
import collections
import dataclasses
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from tests import conftest  # First: it sets the simulated devices and the cache.

import jax  # isort: skip
import numpy as np

from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from tests import runs

# What differs from one run to the next, in metrics.jsonl.
CLOCKS = (
    "seconds",
    "_seconds",
    "_per_second",
    "per_device",
    "stall",
    "goodput",
    "save_share",
)
LEFTOVERS = (".partial", ".unfinished", ".deleting", "orbax-checkpoint-tmp", ".lock")
NO_BATCH = -1


@dataclasses.dataclass(frozen=True)
class Kill:
    """A moment to kill a run at."""

    batch: int = NO_BATCH  # When this batch is asked for; the run's first is 0.
    seconds: float = 0.0  # Otherwise: since the process began.

    @property
    def kind(self) -> str:
        """What the table counts it as."""
        if self.batch == NO_BATCH:
            return "at a random time"
        at = "transition" if abs(self.batch - runs.N_KD) <= 1 else "batch"
        return f"at a chosen {at}"


def command(workdir, files, batch):
    """Returns the command of a run that kills itself when it asks for a batch."""
    return [sys.executable, "-m", "tests.runs", str(workdir), str(files), str(batch)]


def killed(workdir, files, kill):
    """Runs until the kill; returns the kind of kill, or that it came too late."""
    process = subprocess.Popen(
        command(workdir, files, kill.batch),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if kill.batch == NO_BATCH:
        try:
            process.wait(kill.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    said, _ = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said
    return kill.kind if process.returncode else "after its end"


def kills_of(index, rng, seconds):
    """Returns the moments at which run `index` is killed."""
    chosen = [0, 1, runs.N_KD - 1, runs.N_KD, runs.N_KD + 1, runs.TOTAL_STEPS - 1]
    if index % 2 == 0:
        return [Kill(batch=chosen[index // 2 % len(chosen)])]
    count = rng.integers(1, 4)
    # More of them late, for a process spends its first seconds on imports.
    return [Kill(seconds=float(seconds * rng.beta(3, 1))) for _ in range(count)]


def facts(workdir):
    """Returns the metrics of a run without what its clocks say."""
    return [
        {k: v for k, v in record.items() if not k.endswith(CLOCKS)}
        for record in read_metrics(workdir)
    ]


def check(workdir, state, expected, unbroken):
    """Checks a run that was killed and resumed against the unbroken one."""
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    assert facts(workdir) == facts(unbroken)
    steps = [SavedCheckpoints.of(x / "checkpoints").all_steps()
             for x in (workdir, unbroken)]  # fmt: skip
    assert steps[0] == steps[1]
    names = [path.name for path in workdir.rglob("*")]
    assert not [x for x in names if any(mark in x for mark in LEFTOVERS)]


def campaign(count, seed, folder):
    """Kills and resumes `count` runs; returns the kills by kind."""
    files, unbroken = folder / "files", folder / "unbroken"
    runs.make_files(files)
    began = time.monotonic()
    subprocess.run(command(unbroken, files, NO_BATCH), check=True, capture_output=True)
    seconds = time.monotonic() - began
    expected = train(runs.experiment(files), unbroken)
    rng, found = np.random.default_rng(seed), collections.Counter()
    for index in range(count):
        workdir = folder / f"run-{index}"
        for kill in kills_of(index, rng, seconds):
            found[killed(workdir, files, kill)] += 1
        check(workdir, train(runs.experiment(files), workdir), expected, unbroken)
        shutil.rmtree(workdir)
    return found


def main():
    """Prints a table of the kills; fails on the first that was not survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    conftest.pytest_configure()
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(given.count, given.seed, pathlib.Path(folder))
    for kind, number in sorted(found.items()):
        print(f"{number:6} killed {kind}, resumed, and equal to the last bit")


if __name__ == "__main__":
    main()
