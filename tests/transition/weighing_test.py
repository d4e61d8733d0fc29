"""Weights that depend on what was measured."""

import dataclasses

import numpy as np
import pytest

from salt_jax.optim.optimizer import AdamW
from salt_jax.optim.schedules import Constant
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.train import train
from salt_jax.transition.weighing import GapProportional
from tests import runs


def history(*losses, teacher):
    """Validations every ten steps, of a student and its teacher."""
    return [
        {"step": 10 * i, "val_loss": x, "val_teacher_loss": teacher}
        for i, x in enumerate(losses, 1)
    ]


def test_the_factor_is_the_share_of_the_first_lead_that_is_left():
    losses, teacher = (8.1, 6.3, 9.7, 4.2, 4.9), 4.3
    measured = history(*losses, teacher=teacher)
    found = [GapProportional(peak=0.5).factor(measured[:i]) for i in range(6)]
    # Never above 1, never below 0.
    second, last = ((x - teacher) / (8.1 - teacher) for x in (6.3, 4.9))
    assert found == [1.0, 1.0, second, 1.0, 0.0, last]
    assert GapProportional(peak=0.5)(7) == 0.5


def test_a_teacher_that_never_led_has_no_weight():
    measured = history(4.0, 4.25, teacher=4.5)
    assert GapProportional(peak=0.5).factor(measured) == 0.0
    assert GapProportional(peak=0.5).factor(history(4.5, teacher=4.5)) == 0.0


@pytest.mark.parametrize("peak", [1.5, 0.0, float("nan")])
def test_a_peak_that_is_no_weight_is_refused(peak):
    with pytest.raises(ValueError, match=f"peak.*{peak}"):
        GapProportional(peak=peak)


@pytest.mark.slow
def test_the_weight_of_a_run_moves_at_the_step_after_a_validation(tmp_path):
    runs.make_files(tmp_path)
    # Knows nothing: better than a fresh student, which is wrong and confident.
    runs.make_teacher(tmp_path / "uniform", scale=0.0)
    run = runs.experiment(tmp_path)
    distillation = dataclasses.replace(
        run.stages[0].distillation,
        teacher_export=f"{tmp_path}/uniform",
        kd_weight=GapProportional(peak=0.5),
    )
    stage = dataclasses.replace(
        run.stages[0], end_step=runs.TOTAL_STEPS, distillation=distillation
    )
    run = dataclasses.replace(
        run,
        stages=(stage,),
        optimizer=AdamW(learning_rate=Constant(value=1e-3)),
        validation=dataclasses.replace(run.validation, every=2),
    )
    train(run, tmp_path / "run")
    leads, weights = {}, {}
    for record in read_metrics(tmp_path / "run"):
        step = record["step"]
        if "val_loss" in record:
            leads[step] = record["val_loss"] - record["val_teacher_loss"]
        if "kd_weight" in record:
            weights[step] = np.float32(record["kd_weight"])
    peak = np.float32(0.5)
    assert [*leads] == [2, 4, 6, 7] and leads[2] > leads[4] > 0.0 > leads[6]
    for step, of_validation in zip(
        range(1, 8), (None, None, 2, 2, 4, 4, 6), strict=True
    ):
        left = leads[of_validation] / leads[2] if of_validation else 1.0
        assert weights[step] == peak * np.float32(max(left, 0.0)), step
    assert 0.0 == weights[7] < weights[5] < peak
