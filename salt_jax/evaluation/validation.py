"""What is measured of a student, on held-out data, while it is trained."""

from __future__ import annotations

import dataclasses

from absl import logging

from salt_jax.data.reading.answers import Answers
from salt_jax.evaluation.answer_scores import mean_scores
from salt_jax.evaluation.asked import Asked, spread
from salt_jax.evaluation.held_out import HeldOut
from salt_jax.model.transformer import Params
from salt_jax.training.program import Program


@dataclasses.dataclass(frozen=True)
class Measures:
    """The held-out loss, and of a student that is fine-tuned its answers."""

    held_out: HeldOut
    asked: Asked | None

    @classmethod
    def of(cls, program: Program) -> Measures | None:
        """Returns what the validation of an experiment measures; None without one.

        Raises:
          FileNotFoundError: its data is missing.
          ValueError: its data does not fit the experiment, or questions leave no room
            for an answer.
        """
        held_out, validation = HeldOut.of(program), program.experiment.validation
        if held_out is None or validation is None:
            return None
        data, answering = validation.data, validation.answering
        if answering is None or not isinstance(data, Answers):
            return cls(held_out, None)
        questions = data.read(seq_len=program.experiment.seq_len)
        asked = spread(questions, answering.num_questions)
        logging.info("Asking %d of %d questions.", len(asked), len(questions))
        return cls(held_out, Asked.of(program, asked, data))

    def __call__(self, params: Params) -> dict[str, float]:
        """Returns `val_loss`, in nats a target, and where it is asked the metrics."""
        values = {"val_loss": self.held_out.loss(params)}
        if self.asked is not None:
            means = mean_scores(self.asked.scores(self.asked.answers(params)))
            values |= {f"val_{name}": value for name, value in means.items()}
        return values
