import numpy as np
import pytest

from salt_jax.report.arms import bands
from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.intervals import t_interval
from tests.report.arms import made_lab
from tests.sealed import write_lines


def test_a_band_is_the_mean_and_the_interval_at_the_steps_that_all_have():
    one = (np.array([1.0, 2.0, 4.0]), np.array([5.0, 4.0, 3.0]))
    other = (np.array([2.0, 3.0, 4.0]), np.array([6.0, 9.0, 3.5]))
    found = bands.band([one, other])
    assert (found.steps, found.mean, found.count) == ([2.0, 4.0], [5.0, 3.25], 2)
    ends = [t_interval([4.0, 6.0]), t_interval([3.0, 3.5])]
    assert [*zip(found.low, found.high, strict=True)] == ends


def test_one_seed_has_no_band():
    found = bands.band([(np.array([1.0]), np.array([2.0]))])
    assert (found.mean, found.low, found.high) == ([2.0], None, None)


def test_curves_without_a_step_in_common_have_no_mean():
    one, other = (np.array([1.0]), np.array([2.0])), (np.array([2.0]), np.array([2.0]))
    assert bands.band([one, other]) is None and bands.band([]) is None


def test_the_reference_is_linear_between_its_validations(tmp_path):
    for name in ("baseline", "salt"):
        workdir = made_lab.write_run(tmp_path, name, 0)
        at = (50, 100) if name == "baseline" else (25, 75, 100, 125)
        loss = {25: 5.0, 50: 5.0, 75: 3.5, 100: 3.0, 125: 2.0}
        lines = [{"step": s, "flops": 1.0, "val_loss": loss[s]} for s in at]
        write_lines(workdir / "metrics.jsonl", lines)
    arms = ("baseline", "salt")
    lab = Laboratory.read(made_lab.write_lab(tmp_path, arms=arms, seeds=(0,)))
    found = bands.loss_difference(lab, "salt")
    # At 75 the reference is at 4; before 50 and after 100 it is not known.
    assert (found.steps, found.mean) == ([75.0, 100.0], [-0.5, 0.0])


def test_a_metric_ends_with_its_last_value_and_has_few_points(tmp_path):
    workdir = made_lab.write_run(tmp_path, "salt", 0)
    lines = [{"step": s, "flops": 1.0, "kl": 2.0} for s in range(1, 1000)]
    last = {"step": 1000, "flops": 1.0, "kl": 2.0, "val_loss": 1.0}
    write_lines(workdir / "metrics.jsonl", [*lines, last])
    arms = ("baseline", "salt")
    lab = Laboratory.read(made_lab.write_lab(tmp_path, arms=arms, seeds=(0,)))
    found = bands.metric(lab, "salt", "kl")
    assert len(found.steps) <= 60 and found.steps[-1] == 1000
    assert found.mean == pytest.approx([2.0] * len(found.steps))
    assert bands.metric(lab, "salt", "agreement") is None
