"""Questions that a student is asked, and what its answers are worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from absl import logging

from salt_jax.config import Answering
from salt_jax.data.reading.answers import Answers, Question
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.answer_scores import Score, scorer
from salt_jax.generation.generator import Generator
from salt_jax.model.transformer import Params
from salt_jax.training.program import Program

Item = TypeVar("Item")
_BATCH_SIZE = 64  # Questions that are answered at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions, with how they are answered and scored."""

    questions: Sequence[Question]
    generator: Generator
    vocabulary: Vocabulary
    max_new_tokens: int
    score: Score

    @classmethod
    def of(
        cls, program: Program, questions: Sequence[Question], data: Answers
    ) -> Asked:
        """Makes `questions` of `data` ready to be asked of the student of `program`.

        Raises:
          ValueError: one of them leaves no room for an answer in a row, and is neither
            dropped nor cut.
          ModuleNotFoundError: rouge_score is not installed.
        """
        validation = program.experiment.validation
        assert validation is not None and validation.answering is not None
        answering, seq_len = validation.answering, program.experiment.seq_len
        vocabulary = Vocabulary.open(data.vocabulary)
        return cls(
            questions=with_room(questions, data, answering, seq_len),
            generator=Generator(
                program.student, vocabulary, seq_len, batch_size=_BATCH_SIZE
            ),
            vocabulary=vocabulary,
            max_new_tokens=answering.max_new_tokens,
            score=scorer(answering.result_after),
        )

    def answers(self, params: Params) -> list[str]:
        """Returns the answer to each question, of the likeliest tokens."""
        written = self.generator(
            params,
            [question.example.inputs.tolist() for question in self.questions],
            max_new_tokens=self.max_new_tokens,
        )
        return [self.vocabulary.decode(tokens).strip() for tokens in written]

    def scores(self, answers: Sequence[str]) -> list[dict[str, float]]:
        """Returns the metrics of each answer."""
        pairs = zip(answers, self.questions, strict=True)
        return [self.score(answer, question.answer) for answer, question in pairs]


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Returns `count` of `items`, evenly spread, or all if there are no more."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def with_room(
    questions: Sequence[Question], data: Answers, answering: Answering, seq_len: int
) -> list[Question]:
    """Returns the questions after which a row has room for a whole answer.

    Raises:
      ValueError: one has not, and `data` refuses what is too long; or none is left.
    """
    room = seq_len - answering.max_new_tokens
    longest = max(len(question.example.inputs) for question in questions)
    if longest <= room:
        return list(questions)
    found = (
        f"A question of {data.source} {data.split} has {longest:,} tokens, and "
        f"max_new_tokens={answering.max_new_tokens} leaves {room:,} of the {seq_len:,} "
        "of a row for it"
    )
    if data.too_long == "refuse" or room < 1:
        raise ValueError(
            f"{found}: lower max_new_tokens, raise seq_len, or set too_long to 'drop' "
            "or 'cut_question'."
        )
    if data.too_long == "cut_question":
        logging.info("%s: the ends of such questions are cut off.", found)
        return [question.cut(room) for question in questions]
    kept = [question for question in questions if len(question.example.inputs) <= room]
    logging.info("%s: %d are not asked.", found, len(questions) - len(kept))
    if not kept:
        raise ValueError(f"{found}, and none is shorter: lower max_new_tokens.")
    return kept
