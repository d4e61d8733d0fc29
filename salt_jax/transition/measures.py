"""The held-out measures that leave rules and measured weights read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

VAL_LOSS = "val_loss"  # Cross-entropy of the student [nats/token].
VAL_TEACHER_LOSS = "val_teacher_loss"  # That of the teacher, on the same rows.
# That of the student if both models are measured without rows of padding.
VAL_LOSS_REAL = "val_loss_real"
VAL_KL = "val_kl"  # KL(teacher || student) [nats/token].
# Cosine of the gradients of cross-entropy and of distillation.
VAL_GRADIENT_AGREEMENT = "val_gradient_agreement"

OF_TEACHER = (VAL_TEACHER_LOSS, VAL_KL, VAL_GRADIENT_AGREEMENT)
ALL = (VAL_LOSS, *OF_TEACHER)

# The validations of a stage so far, the latest last. Each has "step", the steps made by
# then, and the measures that the stage reads. The numbers are the same on all hosts.
History = Sequence[Mapping[str, float]]


def as_read(values: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Returns the measures of these names, for a rule or a weight.

    The student's loss is that without rows of padding, if the teacher's is.

    Args:
      values: All that a validation has measured.
      names: Names in `ALL`.
    """
    found = {name: values[name] for name in names}
    if VAL_LOSS in found and VAL_LOSS_REAL in values:
        found[VAL_LOSS] = values[VAL_LOSS_REAL]
    return found


def compares_losses(names: Sequence[str]) -> bool:
    """Returns whether the losses of student and teacher are both among `names`."""
    return {VAL_LOSS, VAL_TEACHER_LOSS} <= {*names}


def lead(measured: Mapping[str, float]) -> float:
    """Returns the teacher's lead [nats/token]; below 0 if the student is ahead."""
    return measured[VAL_LOSS] - measured[VAL_TEACHER_LOSS]
