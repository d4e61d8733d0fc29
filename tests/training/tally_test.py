import dataclasses
import json

import jax
import numpy as np
import pytest

from salt_jax.files.bill import read_bill
from salt_jax.main import main
from salt_jax.model.flops import forward_flops, training_bill
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.telemetry.time_sheet import TimeSheet
from salt_jax.train import train
from salt_jax.training.position import Position
from salt_jax.training.tally import Tally
from tests import runs
from tests.runs import N_KD, SEQ_LEN, TOTAL_STEPS, experiment, open_then, train_until

RUN = experiment("/nowhere")
DISTILL, STANDARD = RUN.stages
ROWS, TOKENS = RUN.batch_size, RUN.batch_size * SEQ_LEN


class Clock:
    """Time that passes when told to."""

    now = 0.0


def tally(run=RUN, meta=None, *, times=None, **options):
    times = times or TimeSheet(0.0, {}, clock=lambda: Clock.now)
    return Tally(run, meta or {}, devices=jax.devices(), times=times, **options)


def saved(counted):
    """Returns the meta of a checkpoint, as it is read."""
    bill = dataclasses.asdict(counted.bill())
    meta = {"position": counted.position.to_meta(), "bill": bill}
    return json.loads(json.dumps(meta))


def flops_of(stage, steps, run=RUN):
    teacher = runs.TEACHER if stage is DISTILL else None
    parts = training_bill(run.model, teacher, SEQ_LEN).by_part
    return {part: steps * TOKENS * flops for part, flops in parts.items()}


def test_a_stage_that_ends_early_costs_the_steps_that_it_made():
    counted = tally()
    counted.step(1, DISTILL, is_read=True)
    for step in (2, 3):
        counted.step(step, STANDARD, is_read=True)
    bill = counted.bill()
    first, second = flops_of(DISTILL, 1), flops_of(STANDARD, 2)
    assert bill.flops == {"evaluation": 0} | {x: first[x] + second[x] for x in first}
    assert counted.position.flops == bill.total_flops  # remat is "none" here.
    assert (bill.rows, bill.tokens) == (3 * ROWS, 3 * TOKENS)


def test_recomputation_is_billed_and_is_no_model_flops():
    model = dataclasses.replace(runs.STUDENT, remat="full")
    run = dataclasses.replace(RUN, model=model)
    counted = tally(run)
    counted.step(1, DISTILL, is_read=True)
    flops = counted.bill().flops
    assert 0 < 3 * flops["recomputation"] < flops["student"]
    assert counted.position.flops == sum(flops.values()) - flops["recomputation"]


def test_a_batch_that_is_left_out_has_a_place_in_the_data_and_costs_nothing():
    counted = tally()
    counted.step(1, DISTILL, is_read=False)
    bill = counted.bill()
    assert (bill.rows, bill.tokens, bill.total_flops) == (0, 0, 0)
    assert counted.position == Position(step=1, rows=ROWS)


def test_rows_add_up_over_the_batch_sizes_that_a_run_had():
    first = tally()
    first.step(1, DISTILL, is_read=True)
    meta = saved(first)
    assert Position.of(meta) == first.position
    second = tally(dataclasses.replace(RUN, batch_size=16), meta)
    second.step(2, STANDARD, is_read=True)
    bill = second.bill()
    assert (bill.rows, bill.tokens) == (8 + 16, 24 * SEQ_LEN)
    assert second.position.rows == 24
    one, two = flops_of(DISTILL, 1), flops_of(STANDARD, 2)
    assert bill.flops["student"] == one["student"] + two["student"]


def test_lost_seconds_are_billed_for_the_devices_that_lost_them():
    Clock.now = 0.0
    first = tally()
    Clock.now = 10.0
    meta, spent = saved(first), {"steps": 10.0}
    times = TimeSheet(100.0, spent, recorded=14.0, clock=lambda: Clock.now)
    Clock.now = 107.0
    bill = tally(meta=meta, times=times, lost_devices=2).bill()
    assert bill.chip_seconds == 10.0 * 8 + 4.0 * 2 + 7.0 * 8
    assert bill.seconds["lost"] == 4.0
    assert bill.total_seconds == 21.0


def test_a_checkpoint_without_a_bill_is_a_warning(caplog):
    tally(meta={"position": Position(step=3).to_meta()})
    assert "no bill" in caplog.text


@pytest.fixture(scope="module")
def unbroken(files, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    train(experiment(files), workdir)
    return workdir


@pytest.mark.slow
def test_a_run_leaves_its_bill(unbroken, capsys):
    bill, last = read_bill(unbroken), read_metrics(unbroken)[-1]
    assert (bill.devices, bill.device_kind) == (8, "cpu")
    assert (bill.rows, bill.tokens) == (TOTAL_STEPS * ROWS, TOTAL_STEPS * TOKENS)
    first, second = flops_of(DISTILL, N_KD), flops_of(STANDARD, TOTAL_STEPS - N_KD)
    # Validations after steps 3, 6 and 7, of ten rows each.
    read = 3 * 10 * SEQ_LEN * forward_flops(runs.STUDENT, SEQ_LEN)
    # And the teacher's, once.
    read += 10 * SEQ_LEN * forward_flops(runs.TEACHER, SEQ_LEN)
    assert bill.flops["evaluation"] == read
    assert bill.total_flops - read == sum(first.values()) + sum(second.values())
    assert last["flops"] == bill.total_flops - read
    assert bill.chip_seconds == pytest.approx(8 * bill.total_seconds)
    assert main(["status", str(unbroken)]) == 0
    assert f"8 x cpu), {bill.total_flops:.3g} FLOPs" in capsys.readouterr().out
    assert bill.total_seconds >= read_metrics(unbroken)[-2]["wall_seconds"]
    # Two bytes a token, and what says where documents begin.
    assert bill.bytes_read > 2 * (TOTAL_STEPS * TOKENS + 3 * 10 * SEQ_LEN)


@pytest.mark.slow
def test_a_run_that_is_cut_off_and_resumed_has_the_bill_of_an_unbroken_one(
    files, unbroken, tmp_path
):
    train_until(6, experiment(files, save_every=4), tmp_path)
    first = read_bill(tmp_path)
    assert first.rows == 4 * ROWS  # As of the last checkpoint.
    train(experiment(files), tmp_path)
    bill, whole = read_bill(tmp_path), read_bill(unbroken)
    for name in ("rows", "tokens", "flops", "devices"):
        assert getattr(bill, name) == getattr(whole, name), name
    assert bill.seconds["lost"] > 0
    assert bill.chip_seconds == pytest.approx(8 * bill.total_seconds)
    assert bill.bytes_read > first.bytes_read


@pytest.mark.slow
def test_a_complete_run_that_is_started_again_keeps_its_bill(unbroken, files):
    before = read_bill(unbroken)
    train(experiment(files), unbroken)
    assert read_bill(unbroken) == before


@pytest.mark.slow
def test_a_bill_that_cannot_be_written_does_not_end_the_run(files, tmp_path, caplog):
    in_the_way = open_then(0, (tmp_path / "bill.json").mkdir)
    state = train(experiment(files), tmp_path, open_batches=in_the_way)
    assert int(state.step) == TOTAL_STEPS
    assert "bill.json" in caplog.text
    assert np.isfinite(read_metrics(tmp_path)[-1]["val_loss"])
