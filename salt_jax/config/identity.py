"""What makes an experiment the same as another: its JSON and its fingerprint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from salt_jax.config.experiment import Experiment

# Fields that may change when a run is resumed; `skip_batches`, for later batches only.
OPERATIONAL_FIELDS = (
    *("keep_steps", "log_every", "loss_kernel", "max_to_keep", "mesh"),
    *("rules", "save_every", "save_every_minutes", "skip_batches", "validation"),
    "watch",
)
# The same within models, distillations and data.
_OPERATIONAL_WITHIN = ("attention", "limits", "teacher_rules")


def as_json(value: Any) -> Any:
    """Returns a config as JSON types; "type" holds the name of a dataclass."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: as_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
        return {"type": type(value).__name__} | fields
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return value


def fingerprint(experiment: Experiment) -> str:
    """Returns a digest of the fields that determine the numbers of a run."""
    fields = without_operational(as_json(experiment), measures=experiment.measures)
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_operational(
    experiment: dict[str, Any], *, measures: bool = False
) -> dict[str, Any]:
    """Returns an experiment's JSON without the fields that change no result.

    They are `OPERATIONAL_FIELDS` and, inside models and teachers, the attention kernel
    and the teacher's rules, and inside data the limits of its files. If it `measures`,
    its validation is kept.
    """
    kept = {"validation"} if measures else set()
    left_out = {*OPERATIONAL_FIELDS} - kept

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if k not in _OPERATIONAL_WITHIN}
            return {name: strip(inner) for name, inner in kept.items()}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return {k: strip(v) for k, v in experiment.items() if k not in left_out}
