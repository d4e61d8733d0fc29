"""Runs independent calls on several processes or threads."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import process
from typing import Any, TypeVar

from absl import logging

X = TypeVar("X")

_LINE_SECONDS = 10.0


# The function of a worker process: sent once, and not with every call.
_function: Callable[..., Any] | None = None


@dataclasses.dataclass(frozen=True)
class WorkerPool:
    """The number of processes and threads that work together."""

    num_processes: int
    num_threads: int  # Per process.

    @classmethod
    def of(cls, num_processes: int | None, num_threads: int | None) -> WorkerPool:
        """Returns a pool; numbers that are None are chosen to use all CPU cores."""
        processors = os.cpu_count() or 1
        num_processes = num_processes or processors
        return cls(num_processes, num_threads or max(1, processors // num_processes))

    def each(
        self,
        function: Callable[..., X],
        calls: Sequence[tuple[Any, ...]],
        *,
        num_processes: int | None = None,
        num_threads: int | None = None,
    ) -> Iterator[X]:
        """Yields the results of `function` for all `calls`, as they complete.

        Args:
          function: The function; must be picklable if there are several processes.
          calls: The arguments of each call.
          num_processes: Overrides the number of processes.
          num_threads: Overrides the number of threads, used if there is one process.

        Raises:
          OSError: a process was killed.
          Exception: the first error of a call; calls that have not started are
            canceled.
        """
        num_processes = min(num_processes or self.num_processes, len(calls))
        num_threads = min(num_threads or self.num_threads, len(calls))
        if num_processes > 1:
            pool: futures.Executor = futures.ProcessPoolExecutor(
                num_processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_set_function,
                initargs=(function,),
            )
            yield from _as_done(pool, _call, calls)
        elif num_threads > 1:
            pool = futures.ThreadPoolExecutor(num_threads)
            yield from _as_done(pool, function, calls)
        else:
            for call in calls:
                yield function(*call)


def _set_function(function: Callable[..., Any]) -> None:
    global _function
    _function = function
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.set_verbosity(logging.INFO)  # On stderr, like the parent process.


def _end_with_parent() -> None:
    """Ends this process when its parent has ended, even by a kill."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(*arguments: Any) -> Any:
    assert _function is not None
    return _function(*arguments)


def _as_done(
    pool: futures.Executor, function: Callable[..., X], calls: Iterable[tuple[Any, ...]]
) -> Iterator[X]:
    try:
        pending = [pool.submit(function, *call) for call in calls]
        for future in futures.as_completed(pending):
            yield future.result()
    except process.BrokenProcessPool as error:
        raise OSError(
            "A worker process was killed, perhaps because memory ran out. Run prepare "
            "again to resume, with a lower num_processes if memory is short."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class Pace:
    """Reports the progress of a pass every few seconds: rate and time left."""

    def __init__(
        self,
        label: str,
        unit: str,
        total: int,
        progress: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._label, self._unit, self._total = label, unit, total
        self._progress, self._clock = progress, clock
        self._begun = self._said_at = clock()
        self._done = self._num_tokens = 0

    def add(self, num_tokens: int) -> None:
        """Counts one more finished item, with its tokens."""
        self._done += 1
        self._num_tokens += num_tokens
        if self._clock() - self._said_at >= _LINE_SECONDS:
            self._said_at = self._clock()
            seconds = self._said_at - self._begun
            left = seconds / self._done * (self._total - self._done)
            self._progress(
                f"{self._label}: {self._done} of {self._total} {self._unit}, "
                f"{self._num_tokens / seconds:,.0f} tokens/s, "
                f"{_minutes(left)} left."
            )

    def close(self) -> None:
        """Reports how long the pass took."""
        seconds = max(self._clock() - self._begun, 1e-9)
        self._progress(
            f"{self._label}: {self._done} {self._unit} in {_minutes(seconds)}, "
            f"{self._num_tokens / seconds:,.0f} tokens/s."
        )


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
