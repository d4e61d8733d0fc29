"""Experiments and scorings as frozen values, which refuse contradictions."""

from salt_jax.config.experiment import Experiment
from salt_jax.config.identity import (
    OPERATIONAL_FIELDS,
    as_json,
    fingerprint,
    without_operational,
)
from salt_jax.config.scoring import Scoring
from salt_jax.config.stage import Distillation, Stage
from salt_jax.config.validation import Answering, Validation

__all__ = [
    "OPERATIONAL_FIELDS",
    "Answering",
    "Distillation",
    "Experiment",
    "Scoring",
    "Stage",
    "Validation",
    "as_json",
    "fingerprint",
    "without_operational",
]
