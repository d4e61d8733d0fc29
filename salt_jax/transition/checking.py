"""Refusals of stages whose rule or weight cannot be measured."""

from __future__ import annotations

from collections.abc import Sequence

from salt_jax.transition import measures


def check_stage(
    name: str,
    reads: Sequence[str],
    *,
    leaves: bool,
    has_teacher: bool,
    has_text: bool,
    validations: range,
    is_last: bool,
) -> None:
    """Checks that what decides about a stage can be measured in it.

    Args:
      name: The stage's name.
      reads: The measures that its leave rule and its measured weight read.
      leaves: Whether its leave rule reads any.
      has_teacher: Whether the stage has a distillation.
      has_text: Whether the experiment has a validation on text.
      validations: The steps after which the stage is validated and goes on.
      is_last: Whether no stage follows.

    Raises:
      ValueError: it cannot.
    """
    if unknown := [x for x in reads if x not in measures.ALL]:
        raise ValueError(
            f"Stage {name!r} reads the measures {', '.join(unknown)}; there are "
            f"{', '.join(measures.ALL)}."
        )
    if not reads:
        return
    what = "leave rule" if leaves else "kd_weight"
    said = f"Stage {name!r} has a {what} that reads {', '.join(reads)}"
    if not has_text:
        raise ValueError(f"{said}: give the experiment a validation on text.")
    if not has_teacher and (of_teacher := {*reads} & {*measures.OF_TEACHER}):
        raise ValueError(
            f"{said}, and no teacher: {', '.join(sorted(of_teacher))} needs a "
            "distillation; or set leave to AtEnd()."
        )
    if leaves and is_last:
        raise ValueError(
            f"{said}, and no stage follows it: add one, or set leave to AtEnd()."
        )
    if not validations:
        raise ValueError(
            f"{said}, and is never validated before its last step: validate more "
            "often (Validation.every), or let the stage end later."
        )
