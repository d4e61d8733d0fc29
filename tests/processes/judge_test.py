"""Which process keeps the others from going on."""

from salt_jax.processes import judge
from salt_jax.processes.judge import Seat
from salt_jax.processes.messages import BEAT_SECONDS


def seats(**changes):
    made = {i: Seat(i, f"host-{i}", 100 + i, notes=7) for i in range(3)}
    for name, value in changes.items():
        setattr(made[1], name, value)
    return made


def test_a_job_that_goes_on_has_no_verdict():
    ticks = int(judge.SILENT_SECONDS / BEAT_SECONDS) - 1
    assert judge.verdict(seats(silent_ticks=ticks)) == ""


def test_a_silent_process_is_named():
    ticks = int(judge.SILENT_SECONDS / BEAT_SECONDS)
    assert "process 1 (host-1, pid 101)" in judge.verdict(seats(silent_ticks=ticks))


def test_of_processes_that_are_stuck_the_last_one_is_named():
    made = seats(overdue="no progress at loader.py:12", notes=6)
    made[0].overdue = "no progress at loop.py:8"
    assert "process 1" in judge.verdict(made) and "loader.py:12" in judge.verdict(made)


def test_who_has_not_joined_is_counted_and_named():
    said = judge.never_joined({0: Seat(0, "host-0", 100)}, 3, 300.0)
    assert "1, 2" in said and "1 of 3" in said and "300 s" in said
