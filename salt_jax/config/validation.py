"""What is measured on held-out data while training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from salt_jax.config.checks import check_positive
from salt_jax.data.languages.markov import MarkovLanguage
from salt_jax.data.reading.answers import Answers
from salt_jax.data.reading.prepared_text import PreparedText


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answering:
    """Settings for a fine-tuned student's answers to held-out questions."""

    max_new_tokens: int  # Tokens of an answer; longer answers are truncated.
    num_questions: int  # Questions asked while training, the same ones every time.
    splits: Sequence[str] = ("val", "test")  # Asked in full by `evaluate`.
    result_after: str | None = None  # Exact match and F1 compare the text after it.

    def __post_init__(self):
        check_positive(self, "max_new_tokens", "num_questions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """Measurements on held-out data while training: the loss, and answers."""

    data: PreparedText | Answers | MarkovLanguage
    every: int  # Steps between validations; the last step has one too.
    num_sequences: int  # Rows to read: the first of `data`, the same every time.
    answering: Answering | None = None  # Needs `data` to be Answers.

    def __post_init__(self):
        check_positive(self, "every", "num_sequences")
        if self.answering is not None and not isinstance(self.data, Answers):
            kind = type(self.data).__name__
            raise ValueError(f"answering needs data to be Answers, got a {kind}.")
