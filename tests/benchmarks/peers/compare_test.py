import dataclasses

import pytest

from tests.benchmarks.peers.compare import TURNS, Measured, check_losses, time_ratios

OURS = Measured(
    versions="",
    seconds=(1.0, 3.0, 8.0, 8.0),
    losses=(10.0, 9.0),
    imported_mib=1.0,
    peak_mib=2.0,
)


def test_a_ratio_of_times_is_that_of_the_steps_of_a_round():
    assert TURNS == 2
    # The machine was slow in the second round for both.
    theirs = dataclasses.replace(OURS, seconds=(2.0, 4.0, 12.0, 12.0))
    assert time_ratios(theirs, OURS) == [1.5, 1.5]


def test_a_round_that_lost_a_step_is_refused():
    theirs = dataclasses.replace(OURS, seconds=(2.0, 4.0, 12.0))
    with pytest.raises(ValueError, match="zip"):
        time_ratios(theirs, OURS)


def test_systems_that_come_to_the_same_losses_are_compared():
    almost = dataclasses.replace(OURS, losses=(10.0001, 9.0))
    check_losses("Other", almost, OURS)


@pytest.mark.parametrize("loss", [9.1, 8.9, float("nan")])
def test_systems_that_come_to_other_losses_are_not_compared(loss):
    other = dataclasses.replace(OURS, losses=(10.0, loss))
    with pytest.raises(ValueError, match=r"At step 1 the loss of Other is .*9\.0000"):
        check_losses("Other", other, OURS)
