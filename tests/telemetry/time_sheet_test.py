import pytest

from salt_jax.telemetry.time_sheet import PARTS, TimeSheet


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def nonzero(totals):
    return {part: seconds for part, seconds in totals.items() if seconds}


def test_each_moment_counts_once_for_the_innermost_part(clock):
    times = TimeSheet(90.0, {}, clock=clock)  # The process began ten seconds ago.
    with times.spending("steps"):
        clock.now += 3.0
        with times.spending("validation"):
            clock.now += 5.0
        clock.now += 4.0
    clock.now += 1.0
    with times.spending("save"):
        clock.now += 2.0
    assert nonzero(times.totals()) == {
        "other": 11.0, "steps": 7.0, "validation": 5.0, "save": 2.0
    }  # fmt: skip


def test_a_part_that_is_left_by_an_error_is_left(clock):
    times = TimeSheet(clock.now, {}, clock=clock)
    with pytest.raises(OSError), times.spending("save"):
        clock.now += 2.0
        raise OSError
    clock.now += 3.0
    assert nonzero(times.totals()) == {"save": 2.0, "other": 3.0}


def test_what_is_open_counts_up_to_now(clock):
    times = TimeSheet(clock.now, {}, clock=clock)
    with times.spending("compile"):
        clock.now += 2.0
        assert nonzero(times.totals()) == {"compile": 2.0}
        clock.now += 2.0
    assert nonzero(times.totals()) == {"compile": 4.0}


def test_an_attempt_adds_to_those_before_it_and_counts_what_they_lost(clock):
    earlier = {"steps": 50.0, "compile": 20.0, "lost": 5.0}
    # It went on for 9 seconds after the checkpoint that had those 75.
    times = TimeSheet(clock.now, earlier, recorded=84.0, clock=clock)
    with times.spending("compile"):
        clock.now += 10.0
    assert nonzero(times.totals()) == {"steps": 50.0, "compile": 30.0, "lost": 14.0}


def test_an_attempt_that_was_stopped_after_its_last_record_lost_nothing(clock):
    times = TimeSheet(clock.now, {"steps": 50.0}, recorded=40.0, clock=clock)
    assert nonzero(times.totals()) == {"steps": 50.0}


def test_goodput_is_the_share_of_all_time_that_went_into_steps_that_were_kept(clock):
    times = TimeSheet(clock.now, {"steps": 20.0}, recorded=30.0, clock=clock)
    with times.spending("steps"):
        clock.now += 40.0
    clock.now += 10.0
    record = times.record()
    assert record["goodput"] == 60.0 / 80.0
    assert (record["seconds"], record["wall_seconds"]) == (60.0, 80.0)


def test_a_record_has_every_part_and_they_add_up_to_all_time(clock):
    times = TimeSheet(clock.now, {"steps": 1.0, "lost": 2.0}, clock=clock)
    for part in PARTS:
        with times.spending(part):
            clock.now += 1.0
    record = times.record()
    parts = {"seconds"} | {f"{part}_seconds" for part in PARTS if part != "steps"}
    assert set(record) == parts | {"wall_seconds", "goodput", "save_share"}
    assert sum(record[name] for name in parts) == record["wall_seconds"] == 10.0
