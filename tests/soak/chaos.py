"""Real processes train, are killed at random moments, and end as the unbroken run does.

python tests/soak/chaos.py --count=50 [--processes=2] [--seed=0]: SIGKILL, SIGTERM and
SIGSTOP hit one process of a two-stage run, at a random step or after a random time; the
same command starts the job again. A run that comes to its end is compared with an
unbroken one by the checksums of every array, and a new one begins. At last a run that
was killed goes on with another number of processes. The table counts kills by moment.
"""

import argparse
import collections
import pathlib
import random
import signal
import sys
import tempfile
import time

import numpy as np

from salt_jax.mesh.partitioning import MeshShape
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry.metric_writer import read_metrics
from tests import hosts, runs
from tests.hosts import Fault, JobOf
from tests.soak.faults import printed

SIGNALS = {"killed": 6, "terminated": 2, "frozen": 1}  # How often each is drawn.
FROZEN_SECONDS = 60.0
ALLOWED = {0, 75, -signal.SIGKILL}
OTHER_MESH = MeshShape(model=1)


class Campaign:
    """Kills of runs of one number of processes."""

    def __init__(self, count, files, folder, draw):
        self.count, self.files, self.folder, self.draw = count, files, folder, draw
        self.moments = collections.Counter()
        self.noticed = collections.defaultdict(list)
        self.longest = 20.0  # Seconds of an unbroken attempt; set by `unbroken`.

    def unbroken(self):
        """Runs once without a kill, as what all others are compared with."""
        began = time.time()
        self._attempt(self.folder / "unbroken/run")
        self.expected = sums(self.folder / "unbroken/run")
        self.losses = losses(self.folder / "unbroken/run")
        self.longest = time.time() - began

    def kill(self, times):
        """Kills `times` processes; every run that ends is compared."""
        number, done = 0, 0
        while done < times:
            number += 1
            workdir = self.folder / f"{number}/run"
            while done < times and not self._attempt(workdir, self._drawn(workdir)):
                done += 1
            self.last = workdir
            if done < times:
                self.compare(workdir)
        self._attempt(self.last)
        self.compare(self.last)

    def compare(self, workdir):
        """Checks that a run ended with the bits and the losses of the unbroken one."""
        assert sums(workdir) == self.expected, workdir
        np.testing.assert_array_equal(losses(workdir), self.losses)

    def _drawn(self, workdir):
        """Returns a fault at a step, or a time to send a signal at."""
        kinds = list(SIGNALS)
        kind = self.draw.choices(kinds, weights=list(SIGNALS.values()))[0]
        victim = self.draw.randrange(self.count)
        if kind == "killed" and self.draw.random() < 0.5:
            return kind, victim, self.draw.uniform(0.0, self.longest)
        begin = latest(workdir) or 0
        step = self.draw.randrange(begin, runs.TOTAL_STEPS)
        return Fault(kind=kind, victim=victim, step=step)

    def _attempt(self, workdir, drawn=None):
        """Starts the job, and returns whether it came to its end."""
        fault = drawn if isinstance(drawn, Fault) else None
        started = JobOf(
            count=self.count, workdir=workdir, files=self.files, fault=fault
        )
        kill = None
        try:
            if fault is not None:
                kill = self._wait_for_fault(started)
            elif drawn is not None:
                kind, victim, seconds = drawn
                started.wait(seconds)
                began = time.time()
                started.signal(victim, signal.SIGKILL)
                kill = self._survived(started, kind, began, victim)
            assert started.wait(FROZEN_SECONDS + 120.0), printed(started)
        finally:
            started.end()
        assert set(started.codes.values()) <= ALLOWED, printed(started)
        completed = set(started.codes.values()) == {0}
        # A signal in the last moments finds nothing to interrupt, so it was no kill.
        if kill is not None and not completed:
            self._note(*kill)
        return completed

    def _wait_for_fault(self, started):
        """Returns the kill at a step; None if the run ended before it."""
        fault = started.fault
        while not started.faulted_at.exists() and not started.wait(0.1):
            pass
        if not started.faulted_at.exists():
            return None
        began = float(started.faulted_at.read_text())
        kill = self._survived(started, fault.kind, began, fault.victim)
        if fault.kind == "frozen":
            started.signal(fault.victim, signal.SIGCONT)
        return kill

    def _survived(self, started, kind, began, victim):
        """Waits until the others have ended; returns the kill that they noticed."""
        others = [i for i in range(self.count) if i != victim]
        log = started.logs[victim].read_text()
        moment = "before the first step"
        if "Stage 'distill'" in log or "Stage 'standard'" in log:
            moment = "in stage two" if "standard, " in log else "in stage one"
        elif "Compiling" in log:
            moment = "compiling"
        assert started.wait(FROZEN_SECONDS + 30.0, among=others), printed(started)
        seconds = max(started.ended_at[i] for i in others) - began
        return kind, victim, moment, seconds

    def _note(self, kind, victim, moment, seconds):
        """Counts a kill by its moment."""
        self.moments[kind, moment] += 1
        self.noticed[kind].append(seconds)
        print(
            f"{self.count} processes, process {victim} {kind} {moment}: the others "
            f"ended after {seconds:.1f} s",
            flush=True,
        )


def latest(workdir):
    """Returns the step of the latest checkpoint; None without one."""
    if not (workdir / "checkpoints").exists():
        return None
    return SavedCheckpoints.of(workdir / "checkpoints").latest_step()


def sums(workdir):
    """Returns the checksum of each array of the last step's checkpoint."""
    saved = SavedCheckpoints.of(workdir / "checkpoints")
    return saved.record(runs.TOTAL_STEPS).arrays


def losses(workdir):
    """Returns the loss of each step."""
    return [x["loss"] for x in read_metrics(workdir) if "loss" in x]


def elsewhere(campaign, count, mesh):
    """Continues a run of the campaign with another number of processes and mesh.

    Other processes add up gradients in another order, so losses agree to a tolerance.
    """
    workdir = campaign.folder / f"on-{count}/run"
    victim = campaign.count - 1
    for fault, processes, changes in (
        (Fault(kind="killed", victim=victim, step=4), campaign.count, {}),
        (None, count, {"mesh": mesh}),
    ):
        started = JobOf(
            count=processes,
            workdir=workdir,
            files=campaign.files,
            fault=fault,
            changes=changes,
        )
        assert started.wait(240.0), printed(started)
    assert set(started.codes.values()) == {0}, printed(started)
    np.testing.assert_allclose(losses(workdir), campaign.losses, rtol=1e-4)


def main(arguments=None):
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--processes", default="2,4")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    counts = [int(x) for x in options.processes.split(",")]
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        hosts.in_a_fork(lambda: runs.make_files(folder))
        for position, count in enumerate(counts):
            campaign = Campaign(count, folder, folder / str(count), draw)
            campaign.unbroken()
            share = options.count // len(counts)
            campaign.kill(share + (position < options.count % len(counts)))
            for (kind, moment), times in sorted(campaign.moments.items()):
                print(f"{count} processes, {kind} {moment}: {times} survived")
            for kind, seconds in campaign.noticed.items():
                said = f"median {np.median(seconds):.1f} s, most {max(seconds):.1f} s"
                print(f"{count} processes, {kind}: others ended after {said}")
            other = 6 - count
            elsewhere(campaign, other, OTHER_MESH)
            print(f"{count} processes: continued on {other}, another mesh", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
