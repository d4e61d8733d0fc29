"""A stage, and the distillation in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from salt_jax.config.checks import check_held_dtype
from salt_jax.data.reading.prepared_text import StageData
from salt_jax.files.reading import is_plain_name
from salt_jax.loss import gates
from salt_jax.mesh.partitioning import AxisRules
from salt_jax.model.config import TransformerConfig
from salt_jax.optim.schedules import Schedule
from salt_jax.transition.leaving import AtEnd, LeaveRule
from salt_jax.transition.weighing import MeasuredWeight


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """Distillation from a frozen small teacher, blended into the loss of a stage."""

    teacher: TransformerConfig
    teacher_export: str
    kd_weight: Schedule | MeasuredWeight
    temperature: float = 1.0  # Divides the teacher's logits.
    tokens: gates.Gate = gates.EveryToken()  # Which are distilled, and how strongly.
    real_vocab_size: int | None = None  # Tokens from here on are padding: masked in KD.
    teacher_dtype: str = "bfloat16"  # The dtype of its parameters in memory.
    teacher_rules: AxisRules = AxisRules()

    def __post_init__(self):
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")
        gates.check(self.tokens)
        check_held_dtype(self, "teacher_dtype")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """Consecutive steps with one loss and one data source; without steps, left out."""

    name: str
    end_step: int  # Exclusive, counted from the start of the experiment.
    data: StageData
    distillation: Distillation | None = None
    leave: LeaveRule = AtEnd()  # It may end the stage before `end_step`.

    def __post_init__(self):
        if not isinstance(self.name, str) or not is_plain_name(self.name):
            raise ValueError(
                f"The name of a stage names files too: it has no slash, got "
                f"{self.name!r}."
            )
        if not isinstance(self.leave, LeaveRule):
            raise ValueError(
                f"Stage {self.name!r}: leave must be a rule with reads and reason, got "
                f"{self.leave!r}."
            )

    @property
    def measured_weight(self) -> MeasuredWeight | None:
        """The `kd_weight`, if it depends on what was measured."""
        weight = self.distillation and self.distillation.kd_weight
        return weight if isinstance(weight, MeasuredWeight) else None

    @property
    def reads(self) -> Sequence[str]:
        """The held-out measures that the leave rule and the weight read."""
        weight = self.measured_weight
        return sorted({*self.leave.reads, *(weight.reads if weight else ())})
