"""Stages that their rules end, in real runs that are killed and resumed."""

import dataclasses
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from salt_jax.evaluation.beside_teacher import BesideTeacher
from salt_jax.evaluation.debug_step import debug_step
from salt_jax.files.bill import read_bill
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.telemetry.status import read_status
from salt_jax.train import train
from salt_jax.transition.leaving import AtEnd, WhenGainStalls, WhenStudentReaches
from tests import runs
from tests.runs import (
    LEFT_AT,
    TOTAL_STEPS,
    adaptive,
    assert_same,
    experiment,
    train_until,
)
from tests.soak.kills import facts


@pytest.fixture(scope="module")
def unbroken(files, tmp_path_factory):
    """The workdir and the last state of an adaptive run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("unbroken")
    return workdir, train(adaptive(files), workdir)


def validations(workdir):
    return {r["step"]: r for r in read_metrics(workdir) if "val_loss" in r}


def test_the_next_stage_begins_where_the_rule_says(unbroken):
    records = [r for r in read_metrics(unbroken[0]) if "loss" in r]
    stages = [r["stage"] for r in records]
    assert stages == ["distill"] * LEFT_AT + ["standard"] * (TOTAL_STEPS - LEFT_AT)
    found = validations(unbroken[0])
    (left,) = [r for r in found.values() if "left_stage" in r]
    leads = [found[i]["val_loss"] - found[i]["val_teacher_loss"] for i in (2, 3)]
    assert left["step"] == LEFT_AT and left["left_stage"] == "distill"
    assert left["leave_rule"] == "WhenStudentReaches"
    assert left["leave_lead"] == max(leads) <= left["leave_margin"] == 0.0


def test_the_decision_is_in_every_later_checkpoint_and_in_the_status(unbroken):
    workdir = unbroken[0]
    saved = SavedCheckpoints.of(workdir / "checkpoints")
    by_step = {
        step: saved.read_meta(step)["stage_ends"]["decided"]
        for step in saved.all_steps()
    }
    assert {step for step, decided in by_step.items() if decided} == {4, 6, 7}
    (decision,) = read_status(workdir).ended.values()
    assert by_step[7]["distill"] == dataclasses.asdict(decision)
    assert decision.step == LEFT_AT


def test_the_status_of_a_long_run_has_the_decision_of_its_checkpoint(
    unbroken, tmp_path
):
    workdir = shutil.copytree(unbroken[0], tmp_path / "run")
    (workdir / "metrics.jsonl").unlink()
    assert read_status(workdir).ended == read_status(unbroken[0]).ended


@pytest.mark.slow
def test_a_stage_that_was_left_is_one_that_was_to_end_there(files, tmp_path):
    early = train(adaptive(files, measured_weight=False), tmp_path / "early")
    plain = adaptive(files, measured_weight=False, leave=AtEnd())
    first = dataclasses.replace(plain.stages[0], end_step=LEFT_AT)
    second = experiment(files).stages[1]
    plain = dataclasses.replace(plain, stages=(first, second))
    assert_same(early, train(plain, tmp_path / "planned"))
    of_rule = ("left_stage", "leave_")
    found = [
        {k: v for k, v in record.items() if not k.startswith(of_rule)}
        for record in facts(tmp_path / "early")
    ]
    assert found == facts(tmp_path / "planned")
    bills = [read_bill(tmp_path / name) for name in ("early", "planned")]
    assert bills[0].flops == bills[1].flops and bills[0].tokens == bills[1].tokens


@pytest.mark.slow
@pytest.mark.parametrize("batch", [LEFT_AT - 1, LEFT_AT, LEFT_AT + 2])
def test_a_run_killed_around_a_decision_decides_the_same(
    batch, files, unbroken, tmp_path
):
    command = [sys.executable, "-m", "tests.runs", tmp_path, files, batch, "adaptive"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert_same(train(adaptive(files), tmp_path), unbroken[1])
    assert facts(tmp_path) == facts(unbroken[0])


@pytest.mark.slow
def test_a_run_that_left_its_teacher_is_resumed_without_it(files, unbroken, tmp_path):
    own = shutil.copytree(files, tmp_path / "files")
    run = adaptive(own)
    train_until(LEFT_AT + 2, run, tmp_path / "run")
    shutil.rmtree(own / "teacher")
    assert_same(train(run, tmp_path / "run"), unbroken[1])


@pytest.mark.slow
def test_the_teacher_is_measured_once(files, tmp_path, monkeypatch):
    measured, loss = [], BesideTeacher.loss

    def counted(self, stage, teacher):
        measured.append(loss(self, stage, teacher))
        return measured[-1]

    monkeypatch.setattr(BesideTeacher, "loss", counted)
    run = experiment(files, save_every=3)
    train_until(3, run, tmp_path)
    train(run, tmp_path)
    found = validations(tmp_path)
    assert len(measured) == 1 and found[3]["val_teacher_loss"] == measured[0]
    assert [step for step, r in found.items() if "val_teacher_loss" in r] == [3]


def test_the_weight_follows_what_was_measured(unbroken):
    found = validations(unbroken[0])
    records = {r["step"]: r for r in read_metrics(unbroken[0]) if "kd_weight" in r}
    factors = [1.0, *(found[step]["val_loss"] / 16 for step in range(1, LEFT_AT))]
    weights = [np.float32(0.9) * np.float32(factor) for factor in factors]
    assert [np.float32(r["kd_weight"]) for r in records.values()] == weights


@pytest.mark.slow
def test_a_stage_that_is_never_left_ends_the_run(files, tmp_path):
    never = WhenStudentReaches(margin=-99.0)
    run = adaptive(files, measured_weight=False, leave=never)
    assert len(run.stages) == 2
    state = train(run, tmp_path)
    assert int(state.step) == TOTAL_STEPS
    assert {r["stage"] for r in read_metrics(tmp_path) if "loss" in r} == {"distill"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "measure"),
    [
        (WhenGainStalls(least=0.9), "val_kl"),
        (WhenGainStalls(on="gradient_agreement", least=0.9), "val_gradient_agreement"),
    ],
)
def test_what_a_rule_reads_is_measured_while_its_stage_goes_on(
    rule, measure, files, tmp_path
):
    train(adaptive(files, leave=rule), tmp_path)
    found = [step for step, r in validations(tmp_path).items() if measure in r]
    (left,) = read_status(tmp_path).ended.values()
    assert found == list(range(1, left.step + 1)) and left.step < TOTAL_STEPS


@pytest.mark.slow
def test_a_rule_keeps_the_validation_of_a_run_as_it_is(files, tmp_path):
    run = adaptive(files)
    train_until(2, run, tmp_path)
    other = dataclasses.replace(run.validation, num_sequences=9)
    with pytest.raises(ValueError, match=r"validation\.num_sequences"):
        train(dataclasses.replace(run, validation=other), tmp_path)


@pytest.mark.slow
def test_a_step_of_an_adaptive_run_is_replayed_as_it_was(files, unbroken, tmp_path):
    workdir = shutil.copytree(unbroken[0], tmp_path / "run")
    for step in (2, 4):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    records = {r["step"]: r for r in read_metrics(workdir) if "loss" in r}
    for step in (LEFT_AT, LEFT_AT + 2):
        said = debug_step(adaptive(files), workdir, step)
        assert f"'{records[step]['stage']}'" in said
        assert f"loss {records[step]['loss']:.6g}" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(validation=None), "distill.*val_teacher_loss.*validation"),
        (dict(stages=slice(0, 1)), "distill.*no stage follows"),
        (dict(every=TOTAL_STEPS), "distill.*never validated"),
        (dict(distillation=None), "distill.*no teacher.*val_teacher_loss"),
        (dict(leave=None), "distill.*reads and reason.*None"),
    ],
)
def test_a_rule_that_cannot_be_asked_is_refused(change, message):
    run = adaptive("/nowhere", measured_weight=False)
    if isinstance(stages := change.get("stages"), slice):
        change = dict(stages=run.stages[stages])
    if "every" in change:
        change = dict(validation=dataclasses.replace(run.validation, **change))
    with pytest.raises(ValueError, match=message):
        if {"distillation", "leave"} & {*change}:
            first = dataclasses.replace(run.stages[0], **change)
            change = dict(stages=(first, run.stages[1]))
        dataclasses.replace(run, **change)


def test_a_measure_that_nothing_measures_is_refused():
    weight = type("Odd", (runs.ByLoss,), {"reads": ("val_luck",)})(peak=0.5)
    run = adaptive("/nowhere")
    first = run.stages[0]
    odd = dataclasses.replace(first.distillation, kd_weight=weight)
    first = dataclasses.replace(first, distillation=odd)
    with pytest.raises(ValueError, match="val_luck"):
        dataclasses.replace(run, stages=(first, run.stages[1]))
