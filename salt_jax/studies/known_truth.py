"""A study of distillation on a language with a known truth, as a frozen value."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from salt_jax.data.languages.markov import MarkovLanguage
from salt_jax.files.reading import is_plain_name
from salt_jax.model.config import TransformerConfig
from salt_jax.transition.leaving import LeaveRule, WhenStudentReaches


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownTeacher:
    """A teacher of the study: its shape, and how long it is trained."""

    name: str  # Of its folder, and in figures.
    model: TransformerConfig
    num_steps: int

    def __post_init__(self):
        if not isinstance(self.name, str) or not is_plain_name(self.name):
            raise ValueError(f"A teacher's name has no slash, got {self.name!r}.")
        _check_positive(self, "num_steps")


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownTruth:
    """Students trained for more and more tokens, with one-hot and with soft labels.

    Every student is trained anew for each number of steps, so that its learning rate
    ends where it should: with one-hot labels alone, and distilled from each teacher to
    the last step (`n_KD = N`). With the most steps, another student leaves each teacher
    by `leave`. The teachers' text is not the students'.
    """

    language: MarkovLanguage
    student: TransformerConfig
    teachers: Sequence[KnownTeacher]
    student_steps: Sequence[int]  # Increasing.
    output: str
    batch_size: int
    seq_len: int
    peak_learning_rate: float
    end_learning_rate: float
    warmup_steps: int
    kd_weight: float = 1.0
    leave: LeaveRule = WhenStudentReaches()
    seeds: Sequence[int] = (0,)  # Of students; teachers are shared.
    num_sequences: int = 256  # Held-out rows, of which the risk is measured.
    measure_every: int = 25  # Steps between measurements of a run.
    gradient_steps: Sequence[int] = ()  # Of the longest one-hot run.
    gradient_batches: int = 64  # Batches over which a gradient is resampled.

    def __post_init__(self):
        _check_positive(self, "batch_size", "seq_len", "num_sequences")
        _check_positive(self, "measure_every", "gradient_batches")
        steps = list(self.student_steps)
        if not steps or steps != sorted(set(steps)) or steps[0] <= self.warmup_steps:
            raise ValueError(
                "student_steps must increase from above "
                f"warmup_steps={self.warmup_steps}, got {steps}."
            )
        names = [teacher.name for teacher in self.teachers]
        if not names or len({*names, "one_hot"}) <= len(names):
            raise ValueError(
                "Teachers need names of their own, and one of them at least; "
                f"'one_hot' is the student without a teacher. Got {names}."
            )
        short = [x.name for x in self.teachers if x.num_steps <= self.warmup_steps]
        if short:
            raise ValueError(
                f"The teacher {short[0]!r} needs more num_steps than "
                f"warmup_steps={self.warmup_steps}."
            )
        if not 0.0 < self.kd_weight <= 1.0:
            raise ValueError(f"kd_weight must be in (0, 1], got {self.kd_weight}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different ones, got {[*self.seeds]}.")
        if not self.gradient_batches >= 2:
            raise ValueError("A variance needs gradient_batches of 2 or more.")
        beyond = [x for x in self.gradient_steps if not 0 < x <= steps[-1]]
        if beyond:
            raise ValueError(
                f"gradient_steps are from 1 to {steps[-1]}, got {beyond[0]}."
            )

    @property
    def tokens_per_step(self) -> int:
        """The tokens of a batch."""
        return self.batch_size * self.seq_len


def _check_positive(value: KnownTeacher | KnownTruth, *names: str) -> None:
    for name in names:
        if getattr(value, name) < 1:
            raise ValueError(f"{name} must be positive, got {getattr(value, name)}.")
