import io

import pytest

from salt_jax.telemetry.progress import Progress


class Clock:
    """Time that passes when told to."""

    now = 0.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def log():
    return io.StringIO()


def run(stream, total=100, initial=0, seconds_each=1.0, **facts):
    clock = Clock()
    with Progress("train", total, initial, stream=stream, clock=clock) as progress:
        for done in range(initial + 1, total + 1):
            clock.now += seconds_each
            progress.update(done, **facts)


def test_a_log_gets_a_line_every_tenth_of_quick_work(log):
    run(log)
    lines = log.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"train: {done}/100" for done in range(10, 101, 10)
    ]


def test_a_log_gets_a_line_every_quarter_minute_of_slow_work(log):
    run(log, total=900, initial=890, seconds_each=8.0)
    lines = log.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"train: {done}/900" for done in (892, 894, 896, 898, 900)
    ]


def test_a_line_tells_time_gone_time_left_rate_and_facts(log):
    run(log, total=1000, seconds_each=0.5, loss=3.14159, stage="distill")
    first = log.getvalue().splitlines()[5]
    assert first == (
        "train: 180/1,000, 1:30 elapsed, 6:50 left, 2/s, loss 3.142, stage distill"
    )


def test_work_done_before_does_not_count_in_the_rate(log):
    run(log, total=100, initial=80, seconds_each=2.0)
    first = log.getvalue().splitlines()[0]
    assert first == "train: 88/100, 0:16 elapsed, 0:24 left, 0.5/s"


def test_the_last_line_is_written_once_and_has_nothing_left(log):
    run(log, total=3, seconds_each=1.0)
    assert log.getvalue().splitlines()[-1] == "train: 3/3, 0:03 elapsed, 1/s"
    assert log.getvalue().count("3/3") == 1


def test_work_that_is_cut_short_says_where(log):
    clock = Clock()
    with Progress("score", 1000, stream=log, clock=clock) as progress:
        clock.now = 4.0
        progress.update(7)
    assert log.getvalue() == "score: 7/1,000, 0:04 elapsed, 9:27 left, 1.75/s\n"


def test_hours_are_told_apart_from_minutes(log):
    clock = Clock()
    with Progress("train", 2, stream=log, clock=clock) as progress:
        clock.now = 3661.0
        progress.update(1)
    assert "1:01:01 elapsed, 1:01:01 left" in log.getvalue()


def test_a_terminal_gets_one_line_that_is_rewritten():
    terminal = Terminal()
    run(terminal, loss=2.5)
    text = terminal.getvalue()
    assert text.count("\n") == 1
    assert "train: 100%" in text
    assert "loss 2.5" in text


def test_a_terminal_starts_from_what_was_done_before():
    terminal = Terminal()
    Progress("train", 100, 50, stream=terminal).close()
    assert "50/100" in terminal.getvalue()


def test_the_time_left_follows_the_work_that_is_left(log):
    clock = Clock()
    with Progress(
        "train", 10, 2, stream=log, clock=clock, work=lambda done: done**2
    ) as progress:
        clock.now = 16.0
        progress.update(6)
    assert "16 elapsed, 0:32 left, 0.25/s" in log.getvalue()
