"""Questions that a student answers, and the scores of its answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
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
_BATCH_SIZE = 64  # Questions that are answered together.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions, the generator that answers them and the metrics that score them."""

    questions: Sequence[Question]
    generator: Generator
    vocabulary: Vocabulary
    max_new_tokens: int
    score: Score
    count: Callable[[int], None] = lambda tokens: None  # Told the tokens that are read.

    @classmethod
    def of(
        cls,
        program: Program,
        questions: Sequence[Question],
        data: Answers,
        answering: Answering,
    ) -> Asked:
        """Prepares `questions` of `data` for the student of `program`.

        Raises:
          ValueError: a question leaves no room in a row for an answer and may be
            neither dropped nor cut.
          ModuleNotFoundError: rouge_score is not installed.
        """
        seq_len = program.experiment.seq_len
        vocabulary = Vocabulary.open(data.vocabulary)
        return cls(
            questions=with_room(questions, data, answering, seq_len),
            generator=Generator(
                program.student, vocabulary, seq_len, batch_size=_BATCH_SIZE
            ),
            vocabulary=vocabulary,
            max_new_tokens=answering.max_new_tokens,
            score=scorer(answering.result_after),
            count=lambda n: program.held_out_tokens.update({program.student.config: n}),
        )

    def answers(self, params: Params) -> list[str]:
        """Returns the answer to each question, generated greedily."""
        written = self.generator(
            params,
            [question.example.inputs.tolist() for question in self.questions],
            max_new_tokens=self.max_new_tokens,
        )
        asked = sum(len(question.example.inputs) for question in self.questions)
        self.count(asked + sum(map(len, written)))
        return [self.vocabulary.decode(tokens).strip() for tokens in written]

    def scores(self, answers: Sequence[str]) -> list[dict[str, float]]:
        """Returns the metrics of each answer."""
        pairs = zip(answers, self.questions, strict=True)
        return [self.score(answer, question.answer) for answer, question in pairs]


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Returns `count` of `items`, evenly spread; all of them if there are fewer."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def with_room(
    questions: Sequence[Question], data: Answers, answering: Answering, seq_len: int
) -> list[Question]:
    """Returns the questions that leave room in a row for `max_new_tokens` tokens.

    Longer questions are dropped, cut or refused, as `data.too_long` says.

    Raises:
      ValueError: a question is too long and `data` refuses it; or none is left.
    """
    room = seq_len - answering.max_new_tokens
    longest = max(len(question.example.inputs) for question in questions)
    if longest <= room:
        return list(questions)
    found = (
        f"A question of {data.source} {data.split} has {longest:,} tokens, and "
        f"max_new_tokens={answering.max_new_tokens} leaves {room:,} of the {seq_len:,} "
        "tokens of a row for it"
    )
    if data.too_long == "refuse" or room < 1:
        raise ValueError(
            f"{found}: lower max_new_tokens, raise seq_len, or set too_long to 'drop' "
            "or 'cut_question'."
        )
    if data.too_long == "cut_question":
        logging.info("%s: longer questions are truncated.", found)
        return [question.cut(room) for question in questions]
    kept = [question for question in questions if len(question.example.inputs) <= room]
    logging.info("%s: %d questions are dropped.", found, len(questions) - len(kept))
    if not kept:
        raise ValueError(f"{found}; no question is short enough: lower max_new_tokens.")
    return kept
