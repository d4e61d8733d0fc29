"""Jobs of several real processes on this machine, and what can go wrong in one.

The processes are forked from one that has imported everything, so that a start costs
little. That one must not start JAX: `JobOf` and what it calls do not.
"""

import atexit
import dataclasses
import os
import pathlib
import signal
import socket
import sys
import time
import types

from salt_jax import main
from salt_jax.processes import job
from salt_jax.train import train
from tests.runs import experiment, open_then

DEVICES = 8  # Of all processes together.


def _raise(error):
    raise error


# What one process does to itself at a step, and the exit codes of it and of the others.
FAULTS = {
    "killed": (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL, 75),
    "frozen": (lambda: os.kill(os.getpid(), signal.SIGSTOP), 75, 75),
    "refusal": (lambda: _raise(ValueError("a bad shard")), 2, 2),
    "write error": (lambda: _raise(OSError(28, "No space left")), 1, 75),
    "bug": (lambda: _raise(RuntimeError("a bug")), 1, 75),
    "terminated": (lambda: os.kill(os.getpid(), signal.SIGTERM), 75, 75),
    "interrupted": (lambda: os.kill(os.getpid(), signal.SIGINT), 130, 75),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one process of a job."""

    kind: str
    victim: int
    step: int  # The batch that it asks for when it happens.


@dataclasses.dataclass(kw_only=True)
class JobOf:
    """A training job of `count` forked processes, running."""

    count: int
    workdir: pathlib.Path
    files: pathlib.Path
    fault: Fault | None = None
    changes: dict = dataclasses.field(default_factory=dict)
    join_seconds: float = 120.0
    absent: tuple = ()  # Processes that are never started.

    def __post_init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.logs = [self.workdir.parent / f"log-{i}" for i in range(self.count)]
        self.faulted_at = self.workdir.parent / "faulted"
        self.faulted_at.unlink(missing_ok=True)
        self.codes, self.ended_at = {}, {}
        sys.stdout.flush()
        self.pids = {
            index: self._fork(index)
            for index in range(self.count)
            if index not in self.absent
        }
        self.began = time.time()

    def wait(self, seconds=240.0, *, among=None):
        """Waits until processes have ended; returns whether all did in time."""
        deadline = time.time() + seconds
        waiting = set(self.pids if among is None else among) - set(self.codes)
        while waiting and time.time() < deadline:
            for index in list(waiting):
                pid, status = os.waitpid(self.pids[index], os.WNOHANG)
                if pid:
                    self.codes[index] = os.waitstatus_to_exitcode(status)
                    self.ended_at[index] = time.time()
                    waiting.remove(index)
            time.sleep(0.02)
        return not waiting

    def signal(self, index, signum):
        """Sends a signal to one process, if it still runs."""
        if index not in self.codes:
            os.kill(self.pids[index], signum)

    def end(self):
        """Kills what is left."""
        for index in self.pids:
            self.signal(index, signal.SIGKILL)
        self.wait(10.0)

    def last_lines(self, index):
        """Returns what a process printed as salt_jax's own words."""
        text = self.logs[index].read_text()
        return [line for line in text.splitlines() if line.startswith("salt_jax: ")]

    def _fork(self, index):
        pid = os.fork()
        if pid:
            return pid
        try:
            code = self._host(index)
            sys.stdout.flush()
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 99
        os._exit(code)

    def _host(self, index):
        """Trains as one of the processes; returns the exit code."""
        atexit._clear()  # What the process that forked does at its end.
        log = os.open(self.logs[index], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        _simulate(DEVICES // self.count)
        fault, doom_at = self.fault, -1
        if fault is not None and fault.victim == index:
            doom_at = fault.step

        def doom():
            self.faulted_at.write_text(str(time.time()))
            FAULTS[fault.kind][0]()

        def run(_):
            address = f"127.0.0.1:{self.port},{self.count},{index}"
            job.join(address, join_seconds=self.join_seconds)
            train(
                experiment(self.files, validation=None, **self.changes),
                self.workdir,
                open_batches=open_then(doom_at, doom),
            )
            return 0

        main.parser.parse = lambda _: (
            types.SimpleNamespace(run=run, __name__="train"),
            self,
        )
        main.buckets.check_paths = lambda _: None
        code = main.main([])
        atexit._run_exitfuncs()
        return code


def _simulate(num_devices):
    """Sets how many devices this process simulates; JAX has not started yet."""
    flag = f"--xla_force_host_platform_device_count={num_devices}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


def in_a_fork(work):
    """Calls `work` in a process of its own with all devices, which may start JAX.

    Raises:
      RuntimeError: it failed.
    """
    pid = os.fork()
    if pid == 0:
        try:
            _simulate(DEVICES)
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("A forked process failed; see above.")
