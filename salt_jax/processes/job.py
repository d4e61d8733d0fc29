"""The job that this process is one of: joining it, agreeing, and ending together.

When one process ends early, all others print one line with the cause and the host, and
exit. The line is printed and the process ended by a thread, because the main thread may
be waiting in XLA for a process that is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import logging as python_logging
import os
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

from absl import logging

from salt_jax.processes import cluster, launchers
from salt_jax.processes.cluster import Cluster
from salt_jax.processes.judge import JOIN_SECONDS, TEMPORARY
from salt_jax.processes.member import Member
from salt_jax.processes.messages import Message
from salt_jax.processes.pace import Pace

# JAX's own limits, which salt_jax's are shorter than: to connect once all are there,
# without a heartbeat, and to leave once all are done [s].
_CONNECT, _HEARTBEAT, _SHUTDOWN = 120, 600, 60
# An error of XLA may be the first sign that another process is gone [s].
_HEAR_FIRST_SECONDS = 10.0
_TELL_SECONDS = 8.0

REFUSED, INTERRUPTED = 2, 130


class DisagreementError(ValueError):
    """The processes of a job were started with different facts; all of them hear it."""


class Job:
    """This process's part in a job of several."""

    def __init__(self, here: Cluster, *, join_seconds: float = JOIN_SECONDS):
        """Begins to join; `start` waits for the others."""
        self.cluster, self.pace = here, Pace()
        self._last_words = threading.Lock()
        self._agreed = 0
        self._member = Member(
            here, pace=self.pace, on_end=self._on_end, join_seconds=join_seconds
        )

    def start(self) -> None:
        """Waits until all processes have joined, and starts JAX's service."""
        self._member.wait_for("start")
        import jax

        # On CPUs a program whose peer is gone fails while the next already runs, and
        # gloo aborts a process whose peer is one program further.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        here = self.cluster
        jax.distributed.initialize(
            coordinator_address=self._member.jax_address,
            coordinator_bind_address=self._member.jax_address,
            num_processes=here.count,
            process_id=here.index,
            local_device_ids=None if here.device is None else [here.device],
            cluster_detection_method="deactivate",
            initialization_timeout=_CONNECT,
            heartbeat_timeout_seconds=_HEARTBEAT,
            shutdown_timeout_seconds=_SHUTDOWN,
        )
        atexit.register(self.leave)  # Before JAX, which registered earlier.

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Compares `facts`, as JSON types, with those of all other processes.

        Raises:
          DisagreementError: they differ; on every process.
        """
        self._agreed += 1
        name = f"facts {self._agreed}"
        self._member.say(Message(kind="facts", name=name, facts=dict(facts)))
        answer = self._member.wait_for(name)
        if answer is not None and answer.kind == "differ":
            self._member.expect_the_end()
            raise DisagreementError(answer.text)

    def fail(
        self, error: BaseException, line: str, code: int, *, trace: bool
    ) -> NoReturn:
        """Tells the others why this process ends, and ends it; see `fail` below."""
        if not isinstance(error, DisagreementError):
            if _may_come_from_another(error):
                self._member.wait_for("nothing", _HEAR_FIRST_SECONDS)
            theirs = code if code == REFUSED else TEMPORARY
            if isinstance(error, FloatingPointError):
                theirs = code  # All have the same numbers.
            self.tell(line, theirs)
        if trace:
            traceback.print_exception(error)
        self._exit(line, code)

    def tell(self, line: str, code: int) -> None:
        """Tells the others why this process ends, and with which code they should."""
        self._member.expect_the_end()
        self._member.say(Message(kind="failed", text=line, code=code))
        self._member.wait_for("ended", _TELL_SECONDS)

    def leave(self) -> None:
        """Waits until all processes are done, and leaves JAX's service with them."""
        import jax

        self._member.say(Message(kind="done"))
        self._member.wait_for("done")
        self._member.expect_the_end()
        jax.distributed.shutdown()
        if self.cluster.index == 0:  # The others' connections end with process 0.
            self._member.wait_for("alone", _TELL_SECONDS)

    def _on_end(self, cause: str, code: int) -> None:
        again = " Run the same command again." if code == TEMPORARY else ""
        self._exit(f"stopped, because {cause.removesuffix('.')}.{again}", code)

    def _exit(self, line: str, code: int) -> NoReturn:
        """Prints one line, writes out what is buffered, and ends the process."""
        self._last_words.acquire()  # Never released: the first line is the only one.
        for say in (
            lambda: print(f"salt_jax: {line}", file=sys.stderr),
            python_logging.shutdown,
            sys.stdout.flush,
            sys.stderr.flush,
        ):
            with contextlib.suppress(OSError, ValueError):
                say()
        os._exit(code)


def _may_come_from_another(error: BaseException) -> bool:
    """Returns whether `error` may come from a process that is gone: XLA raised it."""
    import jax

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, jax.errors.JaxRuntimeError):
            return "RESOURCE_EXHAUSTED" not in str(seen)
        seen = seen.__cause__ or seen.__context__
    return False


_job: Job | None = None  # As in `jax.distributed`: a process is in one job at most.


def join(processes: str, *, join_seconds: float = JOIN_SECONDS) -> None:
    """Joins this process to others, before anything asks for a device.

    Args:
      processes: "auto", or HOST:PORT,COUNT,INDEX.
      join_seconds: How long to wait for the others.

    Raises:
      ValueError: the value cannot be read, or no cluster was found.
    """
    global _job
    here = launchers.find() if processes == "auto" else cluster.parse(processes)
    if _job is not None:
        if _job.cluster == here:
            return
        raise ValueError(f"This process is in a job already: {_job.cluster}.")
    _job = Job(here, join_seconds=join_seconds)
    _job.start()
    import jax

    logging.info("%s, %d local devices.", here, jax.local_device_count())


def index() -> int:
    """Returns the index of this process in its job; 0 without one."""
    return 0 if _job is None else _job.cluster.index


def agree(facts: Mapping[str, Any]) -> None:
    """Compares `facts` with those of the other processes, if there are any.

    All processes must call it, in the same order.

    Raises:
      DisagreementError: they differ; on every process.
    """
    if _job is not None:
        _job.agree(facts)


def turn(part: str) -> None:
    """Notes that this process turned to another part of its work."""
    if _job is not None:
        _job.pace.turn(part)


def note() -> None:
    """Notes progress of this process."""
    if _job is not None:
        _job.pace.note()


def tell(line: str) -> None:
    """Tells the other processes, if there are any, why this one is about to end."""
    if _job is not None:
        _job.tell(line, TEMPORARY)


def fail(error: BaseException, line: str, code: int, *, trace: bool = False) -> None:
    """Ends this process and its job, if it is in one; otherwise returns.

    Args:
      error: What ended the command.
      line: The line to print, and to tell the other processes.
      code: The exit code of this process.
      trace: Whether to print the traceback of `error`, unless the cause is elsewhere.
    """
    if _job is not None:
        _job.fail(error, line, code, trace=trace)
