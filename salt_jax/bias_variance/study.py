"""What a `KnownTruth` study measures, as JSON types."""

from __future__ import annotations

from typing import Any

import numpy as np

from salt_jax.bias_variance.crossing import crossing
from salt_jax.bias_variance.labels import Labels
from salt_jax.bias_variance.sweep import ONE_HOT, Curve, Sweep
from salt_jax.studies.known_truth import KnownTeacher, KnownTruth

Students = dict[tuple[str, int, int], Curve]  # By arm, steps and seed.


def run_study(study: KnownTruth) -> dict[str, Any]:
    """Trains what is not trained yet, and measures; returns all numbers.

    Raises:
      FileNotFoundError: a vocabulary is missing.
      ValueError: the output holds runs of another study, or they do not fit the
        devices.
      OSError: the storage failed.
      FloatingPointError: a loss was not finite.
    """
    sweep = Sweep(study)
    teachers = {teacher.name: sweep.teacher(teacher) for teacher in study.teachers}
    students = {
        (ONE_HOT if teacher is None else teacher.name, steps, seed): sweep.student(
            teacher, steps, seed
        )
        for teacher, steps, seed in sweep.all_students()
    }
    tokens = [steps * study.tokens_per_step for steps in study.student_steps]
    return {
        "tokens": tokens,
        "steps": list(study.student_steps),
        "seeds": list(study.seeds),
        "entropy": _entropy(study),
        "arms": {arm: _risks(study, students, arm) for arm in (ONE_HOT, *teachers)},
        "teachers": {
            teacher.name: _teacher(sweep, teacher, teachers[teacher.name], students)
            for teacher in study.teachers
        },
    }


def _risks(study: KnownTruth, students: Students, arm: str) -> dict[str, Any]:
    by_seed = [
        [students[arm, steps, seed].final for steps in study.student_steps]
        for seed in study.seeds
    ]
    return {"by_seed": by_seed, "mean": np.mean(by_seed, axis=0).tolist()}


def _teacher(
    sweep: Sweep, teacher: KnownTeacher, curve: Curve, students: Students
) -> dict[str, Any]:
    study = sweep.study
    tokens = [steps * study.tokens_per_step for steps in study.student_steps]
    one_hot = _risks(study, students, ONE_HOT)["mean"]
    soft = _risks(study, students, teacher.name)["mean"]
    labels = Labels.open(
        sweep.experiment(teacher, study.student_steps[-1], study.seeds[0])
    )
    return {
        "steps": teacher.num_steps,
        "embed_dim": teacher.model.embed_dim,
        "excess_risk": curve.final,
        "labels": labels.distance_from_truth(study.gradient_batches),
        "crossing_tokens": crossing(tokens, one_hot, soft),
        "reached_tokens": _reached(study, students, teacher.name, curve),
        "leaves": _leaves(sweep, teacher),
        "gradients": _gradients(sweep, labels),
    }


def _reached(
    study: KnownTruth, students: Students, arm: str, teacher: Curve
) -> list[float | None]:
    """Returns the tokens at which each student's held-out loss is the teacher's.

    One number a seed, of the longest run that is distilled throughout. Student and
    teacher are measured on the same rows, so that their losses can be compared.
    """
    last = study.student_steps[-1]
    steps = [
        students[arm, last, seed].first_step_at(teacher.losses[-1])
        for seed in study.seeds
    ]
    return [None if x is None else x * study.tokens_per_step for x in steps]


def _leaves(sweep: Sweep, teacher: KnownTeacher) -> dict[str, Any]:
    """Returns where students left the teacher by the rule, and their excess risks."""
    study = sweep.study
    curves = [
        sweep.student(teacher, study.student_steps[-1], seed, leaves=True)
        for seed in study.seeds
    ]
    tokens = [x.left_step and x.left_step * study.tokens_per_step for x in curves]
    risks = [x.final for x in curves]
    return {"tokens": tokens, "by_seed": risks, "mean": float(np.mean(risks))}


def _gradients(sweep: Sweep, labels: Labels) -> list[dict[str, Any]]:
    snapshots = sweep.snapshots()
    exports = labels.students(list(snapshots.values()))
    return [
        {"student": f"step {step}", "step": step}
        | labels.gradient_moments(labels.load(export), sweep.study.gradient_batches)
        for step, export in zip(snapshots, exports, strict=True)
    ]


def _entropy(study: KnownTruth) -> float:
    """Returns the entropy of the next token [nats], a mean over held-out contexts."""
    truth = study.language.truth()
    rows = study.language.open_rows(seq_len=study.seq_len, seed=0)
    batch = rows.read(np.arange(study.num_sequences))
    return float(truth.entropies[truth.contexts(np.asarray(batch.tokens_BL))].mean())
