import pytest

from salt_jax.telemetry import lasting
from salt_jax.telemetry.lasting import Lasting


class Place:
    """A place that fails when it is told to."""

    def __init__(self):
        self.fails, self.found = False, []

    def write(self, step, record):
        if self.fails:
            raise OSError(28, "No space left on device")
        self.found.append((step, record))


@pytest.fixture
def place():
    return Place()


def warnings_of(caplog):
    return [x.getMessage() for x in caplog.records if x.levelname == "WARNING"]


def test_what_could_not_be_written_is_written_later_and_in_order(place, caplog):
    records = Lasting("metrics", place.write)
    for step in range(1, 7):
        place.fails = step in (2, 3, 4)
        records.add(step, f"r{step}")
    records.close()
    assert place.found == [(step, f"r{step}") for step in range(1, 7)]
    first, again = warnings_of(caplog)
    assert "metrics" in first and "step 2" in first and "No space left" in first
    assert "3 late" in again


def test_what_is_lost_is_said_at_the_end(place, caplog):
    records = Lasting("metrics", place.write)
    for step in (10, 20, 30):
        place.fails = step > 10
        records.add(step, "r")
    records.close()
    assert "2 records of steps 20 to 30" in warnings_of(caplog)[-1]


def test_only_so_many_records_wait(place, caplog, monkeypatch):
    monkeypatch.setattr(lasting, "MOST_WAITING", 2)
    records = Lasting("metrics", place.write)
    place.fails = True
    for step in range(1, 5):
        records.add(step, "r")
    place.fails = False
    records.close()
    assert [step for step, _ in place.found] == [3, 4]
    assert "2 records of steps 1 to 2" in warnings_of(caplog)[-1]


def test_a_defect_is_no_failure_of_the_place():
    def write(step, record):
        raise KeyError(record)

    with pytest.raises(KeyError):
        Lasting("metrics", write).add(1, "r")
