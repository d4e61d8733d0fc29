import os
import signal

import pytest

from salt_jax.training.preemption import PreemptionGuard


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_guard_notes_that_it_was_asked_to_stop_instead_of_dying():
    with PreemptionGuard() as guard:
        assert not guard.requested()
        terminate()
        assert guard.requested() and guard.requested()


def test_another_guard_starts_without_a_request():
    with PreemptionGuard():
        terminate()
    with PreemptionGuard() as guard:
        assert not guard.requested()


def test_what_took_the_signal_before_takes_it_after():
    taken = []
    before = signal.signal(signal.SIGTERM, lambda *_: taken.append("outer"))
    try:
        with pytest.raises(InterruptedError), PreemptionGuard():
            raise InterruptedError
        terminate()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert taken == ["outer"]
