"""The kinds of held-out data, by the class that names the data in an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from salt_jax.data.languages.markov import MarkovLanguage
from salt_jax.data.reading.answers import Answers
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.evaluation.held_out import HeldOut
from salt_jax.evaluation.held_out_language import HeldOutLanguage
from salt_jax.evaluation.held_out_questions import HeldOutQuestions
from salt_jax.evaluation.held_out_text import HeldOutText
from salt_jax.training.program import Program

KINDS: Mapping[type, Callable[[Program, Any], HeldOut]] = {
    PreparedText: HeldOutText,
    Answers: HeldOutQuestions,
    MarkovLanguage: HeldOutLanguage,
}


def held_out_of(program: Program) -> HeldOut:
    """Returns the validation data of an experiment; without one, the last stage's.

    Raises:
      ValueError: that data is none of `KINDS`.
    """
    experiment = program.experiment
    validation = experiment.validation
    data = validation.data if validation else experiment.stages[-1].data
    kind = KINDS.get(type(data))
    if kind is None:
        allowed = " or ".join(kind.__name__ for kind in KINDS)
        raise ValueError(
            f"Held-out data is {allowed}, got {type(data).__name__}: give the "
            "experiment a validation with such data."
        )
    return kind(program, data)
