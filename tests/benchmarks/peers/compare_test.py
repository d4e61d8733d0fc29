import dataclasses

import pytest

from tests.benchmarks.peers.compare import Measured, check_losses, time_ratio

OURS = Measured(
    versions="",
    seconds=(1.0, 2.0, 8.0),
    losses=(10.0, 9.0),
    imported_mib=1.0,
    peak_mib=2.0,
)


def test_a_ratio_of_times_is_the_median_over_rounds_and_not_of_medians():
    # The machine was slow in the last round for both, and in the second for them.
    theirs = dataclasses.replace(OURS, seconds=(1.5, 6.0, 8.0))
    assert time_ratio(theirs, OURS) == 1.5


def test_systems_that_come_to_the_same_losses_are_compared():
    almost = dataclasses.replace(OURS, losses=(10.0001, 9.0))
    check_losses({"salt_jax": OURS, "Other": almost})


@pytest.mark.parametrize("loss", [9.1, 8.9, float("nan")])
def test_systems_that_come_to_other_losses_are_not_compared(loss):
    other = dataclasses.replace(OURS, losses=(10.0, loss))
    with pytest.raises(ValueError, match=r"At step 1 the loss of Other is .*9\.0000"):
        check_losses({"salt_jax": OURS, "Other": other})
