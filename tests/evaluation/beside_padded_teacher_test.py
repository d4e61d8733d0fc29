"""A stage whose models are padded compares losses of the vocabulary alone."""

import dataclasses

import jax
import numpy as np
import pytest

from salt_jax.evaluation.beside_teacher import BesideTeacher
from salt_jax.evaluation.held_out_kinds import held_out_of
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.training.program import Program
from salt_jax.training.stage_inputs import StageInputs
from salt_jax.transition.leaving import WhenStudentReaches
from salt_jax.transition.weighing import GapProportional
from tests import runs

REAL = runs.STUDENT.vocab_size
PADDED_STUDENT = dataclasses.replace(runs.STUDENT, vocab_size=REAL + 8)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(files):
    """The files of a run, and its teacher once more with eight rows of padding."""
    runs.make_padded_teacher(files)
    return files


def adaptive(files, *, student=PADDED_STUDENT, padded=True, **distillation):
    """An adaptive run of a padded student, or of a teacher as it is."""
    run = runs.adaptive(files, measured_weight=False)
    first, second = run.stages
    if padded:
        distillation |= runs.padded_teacher(files)
    changed = dataclasses.replace(first.distillation, **distillation)
    first = dataclasses.replace(first, distillation=changed)
    return dataclasses.replace(run, model=student, stages=(first, second))


def opened(run):
    program, stage = Program.on(run), run.stages[0]
    teacher = StageInputs.open(program, stage).load_teacher(program)
    beside = BesideTeacher(program, held_out_of(program).rows())
    return program, beside, stage, teacher


def test_the_padding_of_a_teacher_is_not_in_its_loss(files):
    *_, beside, stage, teacher = opened(adaptive(files))
    found = beside.loss(stage, teacher)
    *_, beside, stage, teacher = opened(
        adaptive(files, student=runs.STUDENT, padded=False)
    )
    np.testing.assert_allclose(found, beside.loss(stage, teacher), rtol=1e-6)


def test_the_padding_of_a_student_is_not_in_the_loss_that_a_rule_reads(files):
    program, beside, stage, teacher = opened(adaptive(files))
    rows = dataclasses.replace(beside.rows, count=8)  # As many as devices divide.
    beside = dataclasses.replace(beside, rows=rows)
    params = jax.device_get(program.fresh_state().params)
    embedding_VD = params["params"]["embedding_VD"].copy()
    embedding_VD[REAL:] *= 90.0
    large = {"params": params["params"] | {"embedding_VD": embedding_VD}}
    of_large, of_small = (
        beside.measured(stage, x, teacher)["val_loss_real"] for x in (large, params)
    )
    assert of_large == of_small
    batch = rows.read(np.arange(8))
    logits = program.student.apply(params, jax.tree.map(np.asarray, batch)).logits()
    log_p_BLV = np.asarray(jax.nn.log_softmax(logits[..., :REAL].astype(np.float32)))
    taken_BL = np.take_along_axis(log_p_BLV, batch.targets_BL[..., None], axis=-1)
    dense = -np.sum(taken_BL[..., 0] * batch.weights_BL) / np.sum(batch.weights_BL)
    np.testing.assert_allclose(of_small, dense, rtol=1e-5)


def test_a_run_of_padded_models_decides_and_weighs_by_the_vocabulary_alone(
    files, tmp_path
):
    train(adaptive(files, kd_weight=GapProportional(peak=0.9)), tmp_path)
    records = read_metrics(tmp_path)
    found = {r["step"]: r for r in records if "val_loss" in r}
    leads = {
        step: r["val_loss_real"] - r["val_teacher_loss"]
        for step, r in found.items()
        if "val_loss_real" in r
    }
    (left,) = [r for r in found.values() if "left_stage" in r]
    assert left["leave_lead"] == max(leads[2], leads[3])
    assert [*leads] == [*range(1, left["step"] + 1)]
    assert all(found[i]["val_loss_real"] < found[i]["val_loss"] for i in leads)
    assert WhenStudentReaches.reads == GapProportional.reads
