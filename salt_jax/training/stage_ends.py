"""When the stages of a run end, by rules that read what was measured.

All of it is in the `meta` of every checkpoint. A run that is resumed before a decision
measures the same numbers again, and so decides the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from salt_jax.config import Stage
from salt_jax.training.train_step import TrainState
from salt_jax.transition import measures
from salt_jax.transition.decision import Decision

_IN_META = "stage_ends"


@dataclasses.dataclass(kw_only=True)
class StageEnds:
    """The decisions of a run so far, and what the next one depends on."""

    decided: dict[str, Decision] = dataclasses.field(default_factory=dict)  # By stage.
    # Of each stage with a teacher: its held-out loss, and of which teacher and rows.
    teachers: dict[str, tuple[float, str]] = dataclasses.field(default_factory=dict)
    # What the validations of a stage measured, for its rule or its weight.
    histories: dict[str, list[dict[str, float]]] = dataclasses.field(
        default_factory=dict
    )

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> StageEnds:
        """Returns what the `meta` of a checkpoint holds; empty without any."""
        found = meta.get(_IN_META, {})
        decided = found.get("decided", {})
        return cls(
            decided={name: Decision(**each) for name, each in decided.items()},
            teachers={k: (x[0], x[1]) for k, x in found.get("teachers", {}).items()},
            histories={k: list(x) for k, x in found.get("histories", {}).items()},
        )

    def to_meta(self) -> dict[str, Any]:
        """Returns what `of` reads; empty if there is nothing to know."""
        found = dataclasses.asdict(self)
        return {_IN_META: found} if any(found.values()) else {}

    @property
    def ended(self) -> dict[str, int]:
        """The step at which each stage ended that its rule has ended."""
        return {name: decision.step for name, decision in self.decided.items()}

    def teacher_loss(self, stage: Stage, identity: str) -> float | None:
        """Returns the loss of the teacher of a stage, if that one was measured."""
        loss, of = self.teachers.get(stage.name, (None, ""))
        return loss if of == identity else None

    def begin(self, stage: Stage) -> None:
        """Forgets what earlier stages measured."""
        kept = {name: x for name, x in self.histories.items() if name == stage.name}
        self.histories = kept

    def validated(
        self, step: int, stage: Stage, values: Mapping[str, float]
    ) -> Decision | None:
        """Notes what a validation measured; returns the decision to end the stage.

        Args:
          step: The steps made.
          stage: The stage of the last of them.
          values: The measures by name, the same on all processes.
        """
        if not stage.reads:
            return None
        history = self.histories.setdefault(stage.name, [])
        history.append({"step": step} | measures.as_read(values, stage.reads))
        if step >= stage.end_step or not stage.leave.reads:
            return None
        reason = stage.leave.reason(history)
        if reason is None:
            return None
        numbers = {name: float(number) for name, number in reason.items()}
        decision = Decision(step=step, rule=type(stage.leave).__name__, numbers=numbers)
        self.decided[stage.name] = decision
        logging.info(
            "Stage %r ends before its end_step=%d, at %s (%s).",
            *(stage.name, stage.end_step, decision),
            ", ".join(f"{x}={history[-1][x]:.6g}" for x in stage.leave.reads),
        )
        return decision

    def weighed(self, stage: Stage, state: TrainState) -> TrainState:
        """Returns `state` with the factor of the teacher's weight in `stage`.

        Raises:
          ValueError: the factor is not from 0 to 1.
        """
        if state.kd_factor is None:
            return state
        factor, weight = 1.0, stage.measured_weight
        if weight is not None:
            factor = float(weight.factor(self.histories.get(stage.name, ())))
            if not (math.isfinite(factor) and 0.0 <= factor <= 1.0):
                raise ValueError(
                    f"{type(weight).__name__}.factor gave {factor} in stage "
                    f"{stage.name!r} at step {int(state.step)}: it must be from 0 to 1."
                )
        value = np.float32(factor)
        array = jax.make_array_from_callback(
            (), state.kd_factor.sharding, lambda _: value
        )
        return dataclasses.replace(state, kd_factor=array)
