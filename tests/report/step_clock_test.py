import numpy as np
import pytest

from salt_jax.report.runs import TrainedRun
from salt_jax.report.step_clock import StepClock
from tests.compared_runs import experiment, write_step_times


def run(*records):
    return TrainedRun(workdir="x", records=records, experiment=experiment("salt"))


@pytest.fixture
def clock(tmp_path):
    return StepClock.read(write_step_times(tmp_path / "times.json"))


def test_a_stage_that_its_rule_ended_costs_its_step_time_only_until_then(clock):
    steps = np.array([10, 40, 100])
    # 3 s a step with the teacher, which leaves at step 40 or at 20, then 2 s.
    assert clock.seconds(run(), steps) == pytest.approx([30, 120, 240])
    left = run({"step": 20, "left_stage": "distill"})
    assert clock.seconds(left, steps) == pytest.approx([30, 100, 220])


def test_files_that_share_an_update_are_one_clock(tmp_path, clock):
    names = ["baseline/standard", "salt/distill"]
    one = StepClock.read(write_step_times(tmp_path / "one.json", *names))
    slow = write_step_times(tmp_path / "two.json", "baseline/standard", "slm/standard")
    other = StepClock.read(slow)
    # The small model came first there, on a busy day.
    other.updates.reverse()
    for update, ratio in zip(other.updates, (1.0, 2.0), strict=True):
        update["median"] *= 5
        update["ratio_to_plain"]["median"] = ratio
    merged = StepClock.merged([one, other])
    for name in ("salt", "slm"):
        of = TrainedRun(workdir="x", records=(), experiment=experiment(name))
        assert merged.seconds(of, np.array(100)) == clock.seconds(of, np.array(100))
        assert merged.flops_per_second(of) == clock.flops_per_second(of)


def test_files_without_an_update_in_common_are_refused(tmp_path, clock):
    names = ["baseline/standard", "salt/distill"]
    one = StepClock.read(write_step_times(tmp_path / "one.json", *names))
    other = StepClock(described={"updates": clock.updates[2:]})
    with pytest.raises(ValueError, match="2 files of step times"):
        StepClock.merged([one, other])
