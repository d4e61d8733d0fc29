import numpy as np
import pytest

from salt_jax.files.records import write_record
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


def test_files_that_share_a_plain_update_are_one_clock(tmp_path, clock):
    names = ["baseline/standard", "salt/distill"]
    one = StepClock.read(write_step_times(tmp_path / "one.json", *names))
    slow = write_step_times(tmp_path / "two.json", "baseline/standard", "slm/standard")
    other = StepClock.read(slow)
    for update in other.updates:
        update["median"] *= 5  # On a busy day; the ratios are the same.
    merged = StepClock.merged([one, other])
    for name in ("salt", "slm"):
        of = TrainedRun(workdir="x", records=(), experiment=experiment(name))
        assert merged.seconds(of, np.array(100)) == clock.seconds(of, np.array(100))


def test_files_without_a_plain_update_in_common_are_refused(tmp_path, clock):
    other = dict(clock.described) | {"updates": clock.updates[1:]}
    write_record(tmp_path / "other.json", other)
    with pytest.raises(ValueError, match="2 files of step times"):
        StepClock.merged([clock, StepClock.read(tmp_path / "other.json")])
