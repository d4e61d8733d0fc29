import functools
import math
import signal

import pytest

from salt_jax.data.preparing.workers import Pace, WorkerPool

CREWS = [WorkerPool(1, 1), WorkerPool(1, 3), WorkerPool(2, 1)]


@pytest.mark.parametrize("workers", CREWS)
def test_every_call_is_done_once(workers):
    calls = [(index, 2) for index in range(20)]
    found = sorted(workers.each(math.pow, calls))
    assert found == [index**2 for index in range(20)]


@pytest.mark.parametrize("workers", CREWS)
def test_an_error_is_raised_as_it_was(workers):
    with pytest.raises(ValueError, match="math domain error"):
        list(workers.each(math.sqrt, [(1,), (-1,), (4,)]))


def test_a_process_that_was_killed_is_said_with_what_to_do():
    kill = functools.partial(signal.raise_signal, signal.SIGKILL)
    with pytest.raises(OSError, match=r"was killed.* num_processes"):
        list(WorkerPool(2, 1).each(kill, [(), ()]))


def test_a_crew_fills_the_processors(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert WorkerPool.of(1, None) == WorkerPool(1, 12)
    assert WorkerPool.of(None, None) == WorkerPool(12, 1)
    assert WorkerPool.of(5, None) == WorkerPool(5, 2)
    assert WorkerPool.of(16, None) == WorkerPool(16, 1)
    assert WorkerPool.of(2, 3) == WorkerPool(2, 3)


def test_a_pass_says_now_and_then_how_far_it_is_and_how_long_it_takes():
    now, lines = [100.0], []
    pace = Pace("Reading", "parts", 8, lines.append, clock=lambda: now[0])
    for seconds in (4, 4, 4, 4):
        now[0] += seconds
        pace.add(600)
    pace.close()
    assert lines == [
        "Reading: 3 of 8 parts, 150 tokens/s, 0:20 left.",
        "Reading: 4 parts in 0:16, 150 tokens/s.",
    ]
