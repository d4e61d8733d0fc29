"""A leave rule's decision to end a stage, and where it stands in the metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

LEFT_STAGE = "left_stage"  # In the record of the validation that ended a stage.
_RULE, _NUMBER = "leave_rule", "leave_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """A decision to end a stage."""

    step: int  # The steps made by then; the next stage begins there.
    rule: str  # The name of the rule's class.
    numbers: Mapping[str, float]  # What it decided by.

    def __str__(self) -> str:
        """Returns the step, the rule and its numbers for people."""
        numbers = ", ".join(f"{name}={x:.6g}" for name, x in self.numbers.items())
        return f"step {self.step:,}, by {self.rule}: {numbers}"

    def record(self, stage: str) -> dict[str, float | str]:
        """Returns what metrics.jsonl says of it, in the record of its validation."""
        numbers = {_NUMBER + name: value for name, value in self.numbers.items()}
        return {LEFT_STAGE: stage, _RULE: self.rule} | numbers


def decisions_in(records: Iterable[Mapping[str, Any]]) -> dict[str, Decision]:
    """Returns the decisions in the records of metrics.jsonl, by stage."""
    return {
        record[LEFT_STAGE]: Decision(
            step=record["step"],
            rule=record[_RULE],
            numbers={
                name.removeprefix(_NUMBER): value
                for name, value in record.items()
                if name.startswith(_NUMBER) and name != _RULE
            },
        )
        for record in records
        if LEFT_STAGE in record
    }
