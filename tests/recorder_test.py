import dataclasses
import itertools

import jax.numpy as jnp
import pytest

from salt_jax import recorder as recorder_module
from salt_jax.metrics import WeightedMean, read_metrics
from salt_jax.model.flops import forward_flops
from salt_jax.recorder import Recorder
from tests import runs
from tests.runs import N_KD, TOTAL_STEPS, experiment

RUN = experiment("/nowhere")
TOKENS = RUN.batch_size * RUN.seq_len


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time that goes on by a second whenever it is asked for."""
    ticks = itertools.count(100.0)
    monkeypatch.setattr(recorder_module.time, "monotonic", lambda: next(ticks))


def metrics(loss=2.0, norm=1.0, update=1.0):
    mean = WeightedMean(jnp.float32(4.0 * loss), jnp.float32(4.0))
    norms = {"grad_norm": jnp.float32(norm), "update_norm": jnp.float32(update)}
    return {"loss": mean} | norms


def stage_of(step):
    return RUN.stages[0 if step <= N_KD else 1]


def record(workdir, *, run=RUN, from_step=0, seconds=0.0, stall=lambda step: 0.0):
    """Records every step from `from_step` to the end."""
    recorder = Recorder(run, workdir, from_step=from_step, seconds=seconds)
    recorder.resume()
    for step in range(from_step + 1, TOTAL_STEPS + 1):
        recorder.after(step, stage_of(step), metrics(), stall(step))
    recorder.pause()
    recorder.close()
    return read_metrics(workdir)


def flops_at(step):
    """By hand: three forward passes of the student, and the teacher's in stage one."""
    student = 3 * forward_flops(runs.STUDENT, runs.SEQ_LEN)
    teacher = forward_flops(runs.TEACHER, runs.SEQ_LEN)
    return TOKENS * (step * student + min(step, N_KD) * teacher)


def test_flops_and_tokens_follow_the_formula_over_both_stages(tmp_path):
    records = record(tmp_path)
    steps = range(1, TOTAL_STEPS + 1)
    assert [r["flops"] for r in records] == [flops_at(step) for step in steps]
    assert [r["tokens"] for r in records] == [TOKENS * step for step in steps]


def test_a_run_that_goes_on_counts_from_where_it_was(tmp_path):
    records = record(tmp_path, from_step=5, seconds=1000.0)
    assert [r["step"] for r in records] == [6, 7]
    assert [r["flops"] for r in records] == [flops_at(6), flops_at(7)]
    assert 1000.0 < records[0]["seconds"] < 1010.0


def test_steps_are_recorded_when_due_and_at_the_end(tmp_path):
    records = record(tmp_path, run=experiment("/nowhere", log_every=3))
    assert [r["step"] for r in records] == [3, 6, 7]


def test_the_learning_rate_is_the_one_that_the_step_used(tmp_path):
    rates = [r["learning_rate"] for r in record(tmp_path)]
    schedule = RUN.optimizer.learning_rate
    assert rates == [float(schedule(step)) for step in range(TOTAL_STEPS)]


def test_a_stall_is_a_share_of_the_time_since_the_last_record(tmp_path):
    # Each stage opens its own input, whose stall counts from nothing.
    waited = lambda step: 0.25 * (step if step <= N_KD else step - N_KD)
    records = record(tmp_path, stall=waited)
    times = [0.0] + [r["seconds"] for r in records]
    spent = [after - before for before, after in itertools.pairwise(times)]
    expected = [0.25 / seconds for seconds in spent]
    assert [r["input_stall"] for r in records] == pytest.approx(expected)
    speeds = [TOKENS / seconds for seconds in spent]
    assert [r["tokens_per_second"] for r in records] == pytest.approx(speeds)


def test_a_first_long_stall_of_a_stage_is_its_own(tmp_path):
    waited = lambda step: 0.25 * step if step <= N_KD else 3.0
    records = record(tmp_path, stall=waited)
    at = records[N_KD]
    assert at["input_stall"] * (at["seconds"] - records[N_KD - 1]["seconds"]) == (
        pytest.approx(3.0)
    )


def test_time_between_pause_and_resume_is_not_counted(tmp_path, clock):
    recorder = Recorder(RUN, tmp_path, from_step=0, seconds=5.0)
    assert recorder.seconds == 5.0
    recorder.resume()
    recorder.pause()
    stopped = recorder.seconds
    for _ in range(10):
        recorder_module.time.monotonic()
    assert recorder.seconds == stopped > 5.0
    recorder.close()


@pytest.mark.parametrize(
    "bad",
    [
        {"loss": jnp.nan},
        {"loss": jnp.inf},
        {"norm": jnp.nan},
        {"norm": jnp.inf},
        {"update": jnp.inf},
    ],
)
def test_a_number_that_is_not_finite_stops_with_where_it_was(bad, tmp_path):
    recorder = Recorder(RUN, tmp_path, from_step=0, seconds=0.0)
    recorder.resume()
    recorder.after(5, RUN.stages[1], metrics(), 0.0)
    recorder.after(6, RUN.stages[1], metrics(**bad), 0.0)
    with pytest.raises(FloatingPointError) as stop:
        recorder.settle()
    recorder.close()
    assert "at step 5, in stage 'standard', on batch 5" in str(stop.value)
    assert [r["step"] for r in read_metrics(tmp_path)] == [5]


def test_a_record_has_the_means_since_the_one_before(tmp_path):
    run = dataclasses.replace(RUN, log_every=2)
    recorder = Recorder(run, tmp_path, from_step=0, seconds=0.0)
    recorder.resume()
    values = [(1.0, 4.0), (4.0, 2.0), (5.0, 1.0), (7.0, 1.0)]
    for step, (loss, weight) in enumerate(values, start=1):
        mean = WeightedMean(jnp.float32(loss * weight), jnp.float32(weight))
        recorder.after(step, stage_of(step), metrics() | {"loss": mean}, 0.0)
    recorder.pause()
    recorder.close()
    assert [r["loss"] for r in read_metrics(tmp_path)] == [2.0, 6.0]


def test_a_step_is_looked_at_when_the_next_is_dispatched_and_not_before(tmp_path):
    recorder = Recorder(RUN, tmp_path, from_step=0, seconds=0.0)
    recorder.resume()
    recorder.after(1, RUN.stages[0], metrics(loss=jnp.nan), 0.0)
    with pytest.raises(FloatingPointError, match="at step 0, in stage 'distill'"):
        recorder.after(2, RUN.stages[0], metrics(), 0.0)
    recorder.close()


def test_held_out_values_are_recorded_with_how_far_the_run_is(tmp_path):
    recorder = Recorder(RUN, tmp_path, from_step=0, seconds=7.0)
    recorder.validated(3, {"val_loss": 1.5})
    recorder.close()
    assert read_metrics(tmp_path) == [
        {"step": 3, "tokens": 3 * TOKENS, "flops": flops_at(3), "seconds": 7.0,
         "val_loss": 1.5}
    ]  # fmt: skip


def test_a_held_out_loss_that_is_not_finite_stops_the_run(tmp_path):
    recorder = Recorder(RUN, tmp_path, from_step=0, seconds=0.0)
    with pytest.raises(FloatingPointError, match="val_loss.*nan.* after step 3"):
        recorder.validated(3, {"val_loss": float("nan")})
    recorder.close()
