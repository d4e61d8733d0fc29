import contextlib
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salt_jax.loss.weighted_mean import WeightedMean
from salt_jax.mesh.chips import CHIPS
from salt_jax.model.flops import forward_flops
from salt_jax.optim.guard import UpdateGuard
from salt_jax.telemetry.metric_writer import read_metrics, recorded_seconds
from salt_jax.telemetry.time_sheet import PARTS, TimeSheet
from salt_jax.training.position import Position
from salt_jax.training.rates import Speedometer
from salt_jax.training.recorder import Recorder
from salt_jax.training.tally import Tally
from tests import runs
from tests.runs import N_KD, TOTAL_STEPS, experiment

RUN = experiment("/nowhere")
DEVICES = 8
TOKENS = RUN.batch_size * RUN.seq_len


class Clock:
    """Time that passes when told to."""

    now = 100.0


class Slow:
    """A metric that takes four seconds to reach the host."""

    def __array__(self, dtype=None, copy=None):
        Clock.now += 4.0
        return np.float32(1.0)


def metrics(loss=2.0, norm=1.0, update=1.0):
    mean = WeightedMean(jnp.float32(4.0 * loss), jnp.float32(4.0))
    norms = {"grad_norm": jnp.float32(norm), "update_norm": jnp.float32(update)}
    return {"loss": mean} | norms


def stage_of(step):
    return RUN.stages[0 if step <= N_KD else 1]


def open_recorder(workdir, *, run=RUN, from_step=0, spent=None, chip=None, dropped=0):
    times = TimeSheet(Clock.now, spent or {}, clock=lambda: Clock.now)
    position = Position(
        step=from_step, tokens=from_step * TOKENS, flops=flops_at(from_step)
    )
    meta = {"position": position.to_meta(), "bill": {"rows": 1}}
    return Recorder(
        run,
        workdir,
        from_step=from_step,
        times=times,
        tally=Tally(run, meta, devices=jax.devices(), times=times),
        speed=Speedometer(num_devices=DEVICES, chip=chip),
        dropped=dropped,
    )


def record(workdir, *, from_step=0, stall=lambda step: 0.0, **options):
    """Records every step from `from_step` to the end; step n takes n seconds."""
    recorder = open_recorder(workdir, from_step=from_step, **options)
    with contextlib.closing(recorder), recorder.stepping():
        for step in range(from_step + 1, TOTAL_STEPS + 1):
            Clock.now += step
            recorder.after(step, stage_of(step), metrics(), stall(step))
            recorder.settle()
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
    records = record(tmp_path, from_step=5, spent={"steps": 1000.0})
    assert [r["step"] for r in records] == [6, 7]
    assert [r["flops"] for r in records] == [flops_at(6), flops_at(7)]
    assert [r["seconds"] for r in records] == [1006.0, 1013.0]
    assert [r["step_seconds"] for r in records] == [6.0, 7.0]


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
    expected = [0.25 / step for step in range(1, TOTAL_STEPS + 1)]
    assert [r["input_stall"] for r in records] == pytest.approx(expected)


def test_speeds_are_means_over_the_steps_since_the_last_record(tmp_path):
    records = record(tmp_path, run=experiment("/nowhere", log_every=3))
    spent = [1 + 2 + 3, 4 + 5 + 6, 7]  # Seconds, of steps 1 to 3, 4 to 6, and 7.
    steps = [3, 3, 1]
    assert [r["step_seconds"] for r in records] == [
        seconds / n for seconds, n in zip(spent, steps, strict=True)
    ]
    assert [r["tokens_per_second"] for r in records] == pytest.approx(
        [n * TOKENS / seconds for seconds, n in zip(spent, steps, strict=True)]
    )
    # Steps 4 to 6: one with a teacher and two without.
    flops = [flops_at(3), flops_at(6) - flops_at(3), flops_at(7) - flops_at(6)]
    assert [r["tflops_per_second_per_device"] for r in records] == pytest.approx(
        [f / seconds / DEVICES / 1e12 for f, seconds in zip(flops, spent, strict=True)]
    )


def test_mfu_is_recorded_of_a_chip_whose_peak_is_published_and_of_no_cpu(tmp_path):
    cpu = Speedometer.on(jax.devices())
    assert (cpu.num_devices, cpu.chip) == (DEVICES, None)
    assert not any("mfu" in r for r in record(tmp_path / "cpu"))
    records = record(tmp_path / "tpu", chip=CHIPS["TPU v5 lite"])
    assert [r["mfu"] for r in records] == pytest.approx(
        [r["tflops_per_second_per_device"] / 197 for r in records]
    )
    assert records[0]["mfu"] == pytest.approx(flops_at(1) / DEVICES / 197e12)


def test_a_first_long_stall_of_a_stage_is_its_own(tmp_path):
    waited = lambda step: 0.25 * step if step <= N_KD else 3.0
    records = record(tmp_path, stall=waited)
    at = records[N_KD]
    assert at["input_stall"] * (at["seconds"] - records[N_KD - 1]["seconds"]) == (
        pytest.approx(3.0)
    )


@pytest.mark.parametrize("part", ["validation", "save", "other"])
def test_time_that_a_step_waits_for_something_else_is_not_its_own(part, tmp_path):
    recorder = open_recorder(tmp_path)
    with contextlib.closing(recorder):
        Clock.now += 50.0  # To compile, or to read.
        with recorder.stepping():
            for step in 1, 2:
                Clock.now += 3.0
                recorder.after(step, RUN.stages[0], metrics(), 0.0)
                with recorder.pausing(part):
                    Clock.now += 20.0
    first, second = read_metrics(tmp_path)
    assert [r["step_seconds"] for r in (first, second)] == [3.0, 3.0]
    assert [r["seconds"] for r in (first, second)] == [3.0, 6.0]
    before = 50.0 if part == "other" else 0.0
    assert second[f"{part}_seconds"] - before == 20.0
    assert second["goodput"] == 6.0 / second["wall_seconds"] == 6.0 / 76.0


def test_a_pause_waits_for_the_last_step_on_the_clock_of_the_steps(tmp_path):
    recorder = open_recorder(tmp_path)
    slow = metrics() | {"grad_norm": Slow()}
    with contextlib.closing(recorder), recorder.stepping():
        recorder.after(1, RUN.stages[0], slow, 0.0)
        with recorder.pausing("save"):
            assert recorder.times.totals()["steps"] == 4.0
        recorder.after(2, RUN.stages[0], slow, 0.0)
    assert [r["seconds"] for r in read_metrics(tmp_path)] == [4.0, 8.0]


def test_the_parts_of_all_time_are_recorded_and_add_up(tmp_path):
    earlier = {"steps": 30.0, "compile": 11.0, "restore": 2.0, "lost": 1.0}
    for r in record(tmp_path, from_step=3, spent=earlier):
        parts = [r[f"{part}_seconds"] for part in PARTS if part != "steps"]
        assert r["wall_seconds"] == r["seconds"] + sum(parts)
        assert r["goodput"] == r["seconds"] / r["wall_seconds"]
        assert (r["compile_seconds"], r["lost_seconds"]) == (11.0, 1.0)


def test_the_last_record_says_how_much_time_was_spent(tmp_path):
    assert recorded_seconds(tmp_path) == 0.0
    last = record(tmp_path, spent={"compile": 5.0})[-1]
    assert recorded_seconds(tmp_path) == last["wall_seconds"] == 33.0


def test_progress_tells_the_speed_since_the_last_record(tmp_path, capsys):
    record(tmp_path, stall=lambda step: 0.25 * step)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.endswith("loss 2, step 1 s, tokens/s 128, stall 25.0%")


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
    recorder = open_recorder(tmp_path)
    recorder.after(5, RUN.stages[1], metrics(), 0.0)
    recorder.after(6, RUN.stages[1], metrics(**bad), 0.0)
    with pytest.raises(FloatingPointError) as stop:
        recorder.settle()
    recorder.close()
    said = str(stop.value)
    assert re.search(r"step 6 .*'standard' \(batch 5\)", said)
    assert 'skip_batches="((5, 6),)"' in said
    assert [r["step"] for r in read_metrics(tmp_path)] == [5]


def test_a_record_has_the_means_since_the_one_before(tmp_path):
    run = dataclasses.replace(RUN, log_every=2)
    recorder = open_recorder(tmp_path, run=run)
    values = [(1.0, 4.0), (4.0, 2.0), (5.0, 1.0), (7.0, 1.0)]
    for step, (loss, weight) in enumerate(values, start=1):
        mean = WeightedMean(jnp.float32(loss * weight), jnp.float32(weight))
        recorder.after(step, stage_of(step), metrics() | {"loss": mean}, 0.0)
    recorder.settle()
    recorder.close()
    assert [r["loss"] for r in read_metrics(tmp_path)] == [2.0, 6.0]


def test_a_step_is_looked_at_when_the_next_is_dispatched_and_not_before(tmp_path):
    recorder = open_recorder(tmp_path)
    recorder.after(1, RUN.stages[0], metrics(loss=jnp.nan), 0.0)
    with pytest.raises(FloatingPointError, match=r"step 1 .*'distill' \(batch 0\)"):
        recorder.after(2, RUN.stages[0], metrics(), 0.0)
    recorder.close()


def test_held_out_values_are_recorded_with_how_far_the_run_is(tmp_path):
    recorder = open_recorder(tmp_path, from_step=3, spent={"steps": 7.0})
    recorder.validated(3, {"val_loss": 1.5})
    recorder.close()
    assert read_metrics(tmp_path) == [
        {"step": 3, "tokens": 3 * TOKENS, "flops": flops_at(3), "seconds": 7.0,
         "val_loss": 1.5}
    ]  # fmt: skip


def test_a_held_out_loss_that_is_not_finite_stops_the_run(tmp_path):
    recorder = open_recorder(tmp_path)
    with pytest.raises(FloatingPointError, match=r"after step 3: .*val_loss.*nan"):
        recorder.validated(3, {"val_loss": float("nan")})
    recorder.close()


def after(recorder, *steps):
    """Records steps by their metrics; None: the batch is left out."""
    for step, found in enumerate(steps, start=1):
        recorder.after(step, stage_of(step), found, 0.0)
    recorder.settle()
    recorder.close()


def dropped(count, in_a_row):
    counts = {"skipped_updates": count, "skipped_in_a_row": in_a_row}
    return {name: jnp.int32(value) for name, value in counts.items()}


GUARDED = dataclasses.replace(RUN, guard=UpdateGuard(max_in_a_row=2))


def test_a_dropped_update_is_counted_logged_and_in_no_mean(tmp_path, caplog):
    bad = metrics(loss=jnp.nan, norm=jnp.inf, update=0.0) | dropped(5, 1)
    good = metrics(loss=3.0) | dropped(5, 0)
    run = dataclasses.replace(GUARDED, log_every=2)
    after(open_recorder(tmp_path, run=run, dropped=4), bad, good, bad | dropped(6, 1))
    (record,) = read_metrics(tmp_path)
    assert (record["loss"], record["skipped_updates"]) == (3.0, 5)
    assert "skipped_in_a_row" not in record
    said = [x.getMessage() for x in caplog.records if x.levelname == "WARNING"]
    assert [re.search(r"step (\d) .*batch (\d)", x).groups() for x in said] == [
        ("1", "0"),
        ("3", "2"),
    ]


def test_too_many_dropped_updates_in_a_row_end_the_run(tmp_path):
    bad = metrics(loss=jnp.nan, update=0.0)
    recorder = open_recorder(tmp_path, run=GUARDED)
    with pytest.raises(FloatingPointError, match=r"2 updates.*step 2 .*\(batch 1\)"):
        after(recorder, bad | dropped(1, 1), bad | dropped(2, 2))
    recorder.close()


def test_a_batch_that_is_left_out_has_a_step_and_no_tokens(tmp_path):
    run = dataclasses.replace(RUN, skip_batches=((1, 3), (4, 5)))
    after(open_recorder(tmp_path, run=run), metrics(), None, None, metrics(), None)
    records = read_metrics(tmp_path)
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5]
    assert [r["skipped_updates"] for r in records] == [0, 1, 2, 2, 3]
    assert [r["tokens"] // TOKENS for r in records] == [1, 1, 1, 2, 2]
    assert ["loss" in r for r in records] == [True, False, False, True, False]
    assert records[-1]["flops"] == flops_at(2)


def test_a_bad_number_of_the_teacher_is_said_to_be_the_teachers(tmp_path):
    nan = WeightedMean(jnp.float32(jnp.nan), jnp.float32(4.0))
    ours = metrics()["loss"]
    of_teacher = metrics(loss=jnp.nan) | {"ce": ours, "teacher_ce": nan}
    of_student = metrics(loss=jnp.nan) | {"ce": nan, "teacher_ce": ours}
    said = []
    for i, found in enumerate((of_teacher, of_student)):
        recorder = open_recorder(tmp_path / str(i))
        with pytest.raises(FloatingPointError) as stop:
            after(recorder, found)
        recorder.close()
        said.append(re.findall(r"teacher.*?ce=2", str(stop.value)))
    assert [len(found) for found in said] == [1, 0]
