"""Running the commands of a laboratory, each when what it needs is complete."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType

from salt_jax.files.lease import LockedError
from salt_jax.files.lock import alone_at
from salt_jax.lab import markers
from salt_jax.lab.child import STOPPED, Children, Ended
from salt_jax.lab.graph import Node

INTERRUPTED = 130  # From the keyboard.
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_POLL_SECONDS = 1.0


@dataclasses.dataclass(kw_only=True)
class Outcome:
    """What came of a laboratory's commands, by their names."""

    before: list[str] = dataclasses.field(default_factory=list)  # Were complete.
    made: list[str] = dataclasses.field(default_factory=list)
    failed: dict[str, Ended] = dataclasses.field(default_factory=dict)
    blocked: dict[str, str] = dataclasses.field(default_factory=dict)  # By what failed.
    stopped: int | None = None  # The exit code, if it was asked to stop.

    def ended(self) -> set[str]:
        """Returns the names of the commands that are complete, failed or blocked."""
        return {*self.before, *self.made, *self.failed, *self.blocked}


class Runner:
    """Runs nodes, several at once if wanted; other processes may work beside it."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        root: str,
        command_of: Callable[[Node], Sequence[str]],
        code: str,
        say: Callable[[str], None],
    ):
        """Takes what to run.

        Args:
          nodes: By name, each after those that it needs.
          root: The folder of the laboratory.
          command_of: The words that run a node.
          code: Digest of the package's source.
          say: Prints one line.
        """
        self._nodes, self._root, self._code = nodes, root, code
        self._say, self._command_of = say, command_of
        self._outcome = Outcome()
        self._taken: set[str] = set()  # By a thread of this process.
        self._waited: set[str] = set()  # Said to be at work elsewhere.
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._children = Children()

    def run(self, jobs: int) -> Outcome:
        """Runs everything that is not complete; returns what came of it.

        Signals are passed on to the commands, which save; then nothing else is begun.

        Raises:
          OSError: a marker or a log cannot be read or written.
          ValueError: another command made what is there.
        """
        codes: collections.Counter[str] = collections.Counter()
        for node in self._nodes.values():
            if (marker := markers.complete(self._root, node)) is not None:
                self._outcome.before.append(node.name)
                codes[marker.code] += 1
        if others := [
            f"{n} of {code}" for code, n in codes.items() if code != self._code
        ]:
            self._say(
                f"Complete by other versions of salt_jax: {', '.join(others)}; this is "
                f"{self._code}."
            )
        with self._signals(), concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            workers = [pool.submit(self._work) for _ in range(jobs)]
            try:
                self._wait(workers)
            except BaseException:
                self._ask_to_stop(signal.SIGTERM)
                raise
        return self._outcome

    def _wait(self, workers: Sequence[concurrent.futures.Future[None]]) -> None:
        """Waits until all have ended, or one has failed.

        Wakes up between: handlers of Python run on this thread only, and a signal that
        the kernel gives to another thread does not end a wait.
        """
        pending = {*workers}
        while pending:
            done, pending = concurrent.futures.wait(
                pending, _POLL_SECONDS, concurrent.futures.FIRST_EXCEPTION
            )
            for worker in done:
                worker.result()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def handle(signum: int, frame: FrameType | None) -> None:
            self._ask_to_stop(signum)

        is_main = threading.current_thread() is threading.main_thread()
        taken = [
            s for s in SIGNALS if is_main and signal.getsignal(s) != signal.SIG_IGN
        ]
        before = {signum: signal.signal(signum, handle) for signum in taken}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler or signal.SIG_DFL)

    def _ask_to_stop(self, signum: int) -> None:
        if self._outcome.stopped is None:
            is_interrupt = signum == signal.SIGINT
            self._outcome.stopped = INTERRUPTED if is_interrupt else STOPPED
        self._stop.set()
        self._children.signal(signum)

    def _work(self) -> None:
        """Runs one node after another until none is left."""
        while not self._stop.is_set():
            with contextlib.ExitStack() as stack:
                with self._mutex:
                    if len(self._outcome.ended()) == len(self._nodes):
                        return
                    taken = self._take(stack)
                if taken is None:
                    self._stop.wait(_POLL_SECONDS)
                    continue
                node, lock = taken
                ended = self._children.run(
                    self._command_of(node), markers.log_of(self._root, node.name), lock
                )
                self._note(node, ended)

    def _take(self, stack: contextlib.ExitStack) -> tuple[Node, int | None] | None:
        """Returns a node that can run, and its lock, which `stack` then holds."""
        outcome = self._outcome
        for name, node in self._nodes.items():
            if name in outcome.ended() or name in self._taken:
                continue
            broken = [
                x for x in node.needs if x in {**outcome.failed, **outcome.blocked}
            ]
            if broken:
                outcome.blocked[name] = outcome.blocked.get(broken[0], broken[0])
                continue
            if not {*node.needs} <= {*outcome.before, *outcome.made}:
                continue
            try:
                lock = stack.enter_context(alone_at(markers.path_of(self._root, name)))
            except LockedError as error:
                if name not in self._waited:
                    self._say(f"{name} is at work elsewhere: {error}")
                self._waited.add(name)
                continue
            if markers.complete(self._root, node) is not None:
                outcome.before.append(name)  # By the process that had the lock.
                stack.close()
                continue
            self._taken.add(name)
            number = len(outcome.ended()) + len(self._taken)
            self._say(f"[{number}/{len(self._nodes)}] {name}")
            return node, lock
        return None

    def _note(self, node: Node, ended: Ended) -> None:
        """Records how a node's command ended."""
        markers.write(
            self._root, node, code=self._code, exit=ended.exit, seconds=ended.seconds
        )
        with self._mutex:
            self._taken.discard(node.name)
            if ended.exit == 0:
                self._outcome.made.append(node.name)
                self._say(f"{node.name}: complete after {ended.seconds:.0f} s")
            elif ended.exit == STOPPED and not self._stop.is_set():
                self._say(f"{node.name} was stopped twice from elsewhere.")
                self._ask_to_stop(signal.SIGTERM)
            elif not self._stop.is_set():
                self._outcome.failed[node.name] = ended
                self._say(f"{node.name}: exit code {ended.exit}: {ended.last_line}")
