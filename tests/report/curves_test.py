import numpy as np
import pytest

from salt_jax.report.curves import (
    LossCurve,
    PassingPoint,
    loss_at,
    passing_point,
    smooth,
    transition_step,
)


def curve(*losses, flops_each=10.0, seconds_each=2.0):
    steps = 100.0 * np.arange(1, len(losses) + 1)
    return LossCurve(
        steps=steps,
        flops=flops_each * steps,
        seconds=seconds_each * steps,
        losses=np.array(losses, float),
    )


BASELINE = curve(5.0, 4.0, 3.5, 3.0)


def test_a_run_that_passes_midway_does_so_on_the_line_between_two_validations():
    # From 3.25 to 2.25 over steps 200 to 300, a quarter of the way.
    salt = curve(4.0, 3.25, 2.25, 2.0, flops_each=12.0, seconds_each=3.0)
    assert passing_point(salt, BASELINE) == PassingPoint(
        steps=225.0,
        flops=2700.0,
        seconds=675.0,
        share_of_steps=0.5625,
        share_of_flops=0.675,
        share_of_seconds=0.84375,
    )


def test_a_run_that_stays_above_never_passes():
    assert passing_point(curve(5.0, 4.0, 3.5, 3.001), BASELINE) is None


def test_a_run_that_ends_on_the_very_loss_passes_at_its_end():
    passing = passing_point(BASELINE, BASELINE)
    assert passing.steps == 400.0
    assert passing.share_of_flops == 1.0


def test_a_run_that_touches_the_loss_at_a_validation_passes_there():
    assert passing_point(curve(4.0, 3.0, 3.0, 2.0), BASELINE).steps == 200.0


def test_a_run_that_is_past_from_the_start_passes_at_its_first_validation():
    assert passing_point(curve(2.5, 2.0), BASELINE).steps == 100.0


def test_the_first_passing_counts_though_the_loss_rises_again():
    assert passing_point(curve(4.0, 2.0, 5.0, 1.0), BASELINE).steps == 150.0


def test_the_target_is_the_other_runs_last_loss_and_not_its_best():
    baseline = curve(5.0, 1.0, 3.0)
    assert passing_point(curve(4.0, 2.0), baseline).steps == 150.0


RECORDS = [
    {"step": 1, "flops": 1.0, "seconds": 0.5, "ce": 9.0},
    {"step": 2, "flops": 2.0, "seconds": 1.0, "val_loss": 8.0},
    {"step": 4, "flops": 5.0, "seconds": 3.0, "val_loss": 7.0},
]


def test_a_curve_is_made_of_the_records_that_have_its_loss():
    made = LossCurve.of(RECORDS)
    found = [made.steps, made.flops, made.losses]
    np.testing.assert_array_equal(found, [[2, 4], [2, 5], [8, 7]])
    assert LossCurve.of(RECORDS, "ce").losses.tolist() == [9.0]


def test_seconds_are_those_of_the_clock_and_never_of_the_records():
    made = LossCurve.of(RECORDS)
    assert made.seconds is None
    with pytest.raises(ValueError, match="time_steps"):
        made.spent("seconds")
    clocked = LossCurve.of(RECORDS, clock=lambda steps: 10.0 * steps)
    assert clocked.spent("seconds").tolist() == [20.0, 40.0]


def test_without_seconds_a_passing_has_no_share_of_them():
    untimed = LossCurve.of(RECORDS)
    passing = passing_point(untimed, untimed)
    assert (passing.share_of_steps, passing.share_of_seconds) == (1.0, None)


def test_a_run_without_a_validation_is_refused():
    with pytest.raises(ValueError, match="None of 1 metric records has a 'val_loss'"):
        LossCurve.of([{"step": 1, "ce": 2.0}])


@pytest.mark.parametrize(
    ("flops", "loss"),
    [(999.0, None), (1000.0, 5.0), (1500.0, 4.5), (4000.0, 3.0), (9000.0, 3.0)],
)
def test_the_loss_for_some_flops_is_unknown_before_the_first_validation(flops, loss):
    assert loss_at(BASELINE, "flops", flops) == loss


def test_the_transition_is_where_the_first_stage_was_last_seen():
    records = [
        {"step": 10, "stage": "distill"},
        {"step": 15, "val_loss": 1.0},
        {"step": 20, "stage": "distill"},
        {"step": 30, "stage": "standard"},
    ]
    assert transition_step(records) == 20


def test_a_run_of_one_stage_has_no_transition():
    assert transition_step([{"step": 10, "stage": "standard"}]) is None


def test_smoothing_means_over_what_came_before():
    smoothed = smooth(np.array([3.0, 5.0, 1.0, 0.0]), window=2)
    np.testing.assert_allclose(smoothed, [3.0, 4.0, 3.0, 0.5], rtol=1e-15)
