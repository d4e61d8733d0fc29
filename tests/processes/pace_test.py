"""How long each part of a run may go on without a sign of progress."""

import pytest

from salt_jax.processes import pace
from salt_jax.processes.pace import Pace


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_step_may_take_twenty_times_as_long_as_the_longest_before(clock):
    paced = Pace(clock)
    paced.turn(pace.STEPS)
    for seconds in (100.0, 1.0):
        clock.now += seconds
        paced.note()
    allowed = pace.STEP_SECONDS + 100.0 * pace.STEPS_ALLOWED
    clock.now += allowed
    assert not paced.overdue()
    clock.now += 1.0
    assert f"{allowed:.0f} s" in paced.overdue() and "steps" in paced.overdue()


def test_a_validation_between_two_steps_makes_no_step_longer(clock):
    paced = Pace(clock)
    paced.turn(pace.STEPS)
    clock.now += 1.0
    paced.note()
    paced.turn("validation")
    clock.now += 1000.0
    paced.turn(pace.STEPS)
    assert paced.allowed() == pace.STEP_SECONDS + pace.STEPS_ALLOWED


def test_compiling_for_an_hour_is_no_death(clock):
    paced = Pace(clock)
    paced.turn("compile")
    clock.now += 3600.0
    assert not paced.overdue()


def test_where_the_main_thread_is_stuck_is_named(clock):
    paced = Pace(clock)
    paced.turn("save")
    clock.now += 1e6
    assert "salt_jax/processes/pace.py" in paced.overdue()
