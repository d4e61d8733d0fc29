import logging

import pytest
from absl import logging as absl_logging

from salt_jax.telemetry.warning_log import KEPT, WarningLog, read_warnings


class Clock:
    now = 1000.0


def open_log(workdir):
    return WarningLog(workdir, clock=lambda: Clock.now)


def messages(workdir):
    return [x["message"] for x in read_warnings(workdir)]


def test_warnings_are_kept_and_others_are_not(tmp_path):
    with open_log(tmp_path) as log:
        absl_logging.warning("of the inputs, %d", 1)
        log.begin()
        absl_logging.info("nothing to see")
        logging.getLogger("others").error("two\nlines")
    assert messages(tmp_path) == ["of the inputs, 1", "two lines"]
    assert [x["level"] for x in read_warnings(tmp_path)] == ["WARNING", "ERROR"]


def test_nothing_is_written_for_a_run_that_is_refused(tmp_path):
    with pytest.raises(ValueError, match="refused"), open_log(tmp_path):
        absl_logging.warning("before")
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())


def test_the_error_that_ends_a_run_is_its_last_line(tmp_path):
    with pytest.raises(FloatingPointError), open_log(tmp_path) as log:
        log.begin()
        raise FloatingPointError("Not finite at step 7")
    (last,) = read_warnings(tmp_path)
    assert last["level"] == "ERROR"
    assert "Not finite at step 7" in last["message"]


def test_an_attempt_adds_to_the_warnings_of_those_before_up_to_a_limit(tmp_path):
    for attempt in range(3):
        with open_log(tmp_path) as log:
            log.begin()
            for number in range(KEPT // 2):
                absl_logging.warning("%d %d", attempt, number)
    half = range(KEPT // 2)
    assert messages(tmp_path) == [f"{a} {n}" for a in (1, 2) for n in half]


def test_many_warnings_are_written_once_a_second(tmp_path):
    with open_log(tmp_path) as log:
        log.begin()
        absl_logging.warning("a")
        absl_logging.warning("b")
        assert messages(tmp_path) == ["a"]
        Clock.now += 1.0
        absl_logging.warning("c")
        assert messages(tmp_path) == ["a", "b", "c"]
        absl_logging.warning("d")
    assert messages(tmp_path) == ["a", "b", "c", "d"]


def test_a_log_that_cannot_be_read_or_written_ends_nothing(tmp_path):
    (tmp_path / "warnings.json").write_text("{\n")
    with open_log(tmp_path) as log:
        log.begin()
        absl_logging.warning("after the damage")
    assert messages(tmp_path) == ["after the damage"]
    (tmp_path / "file").touch()
    with open_log(tmp_path / "file" / "run") as log:
        log.begin()
        absl_logging.warning("lost")
