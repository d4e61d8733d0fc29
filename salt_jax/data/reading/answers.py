"""Questions with their answers, of which a stage learns the answers.

In a Gin file:

    from __gin__ import dynamic_registration
    from salt_jax import config
    from salt_jax.data.reading import answers

    config.Stage.data = @answers.Answers()

    answers.Answers:
      source = 'tfds:anli/r1'
      vocabulary = '/data/vocabulary/256k.model'
      question = '{context} Does it follow that {hypothesis} Yes, maybe or no?'
      answer = '{label}'
      labels = ('yes', 'maybe', 'no')

The model reads the question, a newline and the answer, and the end of a text after it;
it is the answer and that end which it learns.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from salt_jax.data.reading.answer_rows import AnswerRows
from salt_jax.data.reading.objectives import Example
from salt_jax.data.reading.records import read_records
from salt_jax.data.vocabulary import Vocabulary

TOO_LONG = ("refuse", "drop", "cut_question")

_NUM_THREADS = 8
_CHUNK = 256  # Examples that a thread is given at once.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A question and its answer, as text and as tokens."""

    question: str
    answer: str
    columns: Mapping[str, str]  # What scores are given apart by.
    example: Example  # Its inputs end with the newline, its targets with the end.

    @property
    def num_tokens(self) -> int:
        """How much of a row it takes."""
        return len(self.example.inputs) + len(self.example.targets)

    def cut(self, num_inputs: int) -> Question:
        """Returns it with so many inputs at most: the end of the question is lost."""
        inputs = self.example.inputs
        if len(inputs) <= num_inputs:
            return self
        kept = np.concatenate([inputs[: num_inputs - 1], inputs[-1:]])
        return dataclasses.replace(self, example=Example(kept, self.example.targets))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """What a stage learns to answer: a split of a set of questions."""

    # A folder of SPLIT.jsonl, plain or compressed, "embedded:sft/NAME", or a data set
    # of TensorFlow Datasets as "tfds:NAME/CONFIG".
    source: str
    vocabulary: str
    split: str = "train"
    question: str = "{question}"  # With the fields of a record in braces.
    answer: str = "{answer}"
    labels: Sequence[str] = ()  # What a field that is a number stands for, from 0 on.
    columns: Sequence[str] = ()  # Fields by whose values scores are given apart.
    # Or drop, or cut_question: what does not fit a row. An answer is never cut.
    too_long: str = "refuse"
    data_dir: str | None = None  # Of TensorFlow Datasets; None: its own default.

    def __post_init__(self):
        if self.too_long not in TOO_LONG:
            raise ValueError(
                f"too_long={self.too_long!r} is not one of {', '.join(TOO_LONG)}."
            )
        for name in ("question", "answer"):
            if not _fields_of(getattr(self, name)):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} names no field of a record: write "
                    "one in braces, such as '{" + name + "}'."
                )

    @property
    def has_prefix(self) -> bool:
        """Whether some tokens of a row may see what comes after them: none may."""
        return False

    def open_rows(self, *, seq_len: int, seed: int) -> AnswerRows:
        """Reads and tokenises the split, and packs it into rows.

        Raises:
          FileNotFoundError: the questions or their vocabulary are missing.
          ValueError: a record lacks a field, or is too long where that is refused.
        """
        return AnswerRows(
            [question.example for question in self.read(seq_len=seq_len)],
            seq_len=seq_len,
            seed=seed,
            vocabulary=Vocabulary.open(self.vocabulary),
        )

    def read(self, *, seq_len: int) -> list[Question]:
        """Returns the questions of the split that fit a row, in their order.

        Raises:
          FileNotFoundError: the questions or their vocabulary are missing.
          ValueError: a record lacks a field, or is too long where that is refused, or
            there are no questions.
        """
        vocabulary = Vocabulary.open(self.vocabulary)
        records = read_records(
            self.source, self.split, sorted(self._fields()), data_dir=self.data_dir
        )
        newline = vocabulary.encode_array("\n")
        if not len(newline):
            raise ValueError(
                f"The vocabulary {vocabulary.path} has no newline, which is between a "
                "question and its answer: use one that keeps newlines."
            )
        end = np.array([vocabulary.eos_id], np.int32)

        def tokenised(chunk: Sequence[Mapping[str, Any]]) -> list[Question]:
            return [self._question(x, vocabulary, newline, end) for x in chunk]

        with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS, "tokenise") as pool:
            found = [q for part in pool.map(tokenised, _chunks(records)) for q in part]
        fitting = self._fitting(found, seq_len)
        if not fitting:
            raise ValueError(f"{self.source} {self.split} has no question to read.")
        return fitting

    def _fields(self) -> set[str]:
        return {*_fields_of(self.question), *_fields_of(self.answer), *self.columns}

    def _question(
        self,
        record: Mapping[str, Any],
        vocabulary: Vocabulary,
        newline: np.ndarray,
        end: np.ndarray,
    ) -> Question:
        values = {name: self._text(name, value) for name, value in record.items()}
        question = self.question.format_map(values)
        answer = self.answer.format_map(values)
        inputs = np.concatenate([vocabulary.encode_array(question), newline])
        targets = np.concatenate([vocabulary.encode_array(answer), end])
        return Question(
            question=question,
            answer=answer,
            columns={name: values[name] for name in self.columns},
            example=Example(inputs.astype(np.int32), targets.astype(np.int32)),
        )

    def _text(self, name: str, value: Any) -> str:
        if isinstance(value, str) or not self.labels:
            return str(value)
        if 0 <= value < len(self.labels):
            return self.labels[value]
        raise ValueError(
            f"{self.source} {self.split}: {name!r} is the number {value}, and labels "
            f"names {len(self.labels)}, from 0 on: give labels a word for each number."
        )

    def _fitting(self, questions: list[Question], seq_len: int) -> list[Question]:
        longest = max((x.num_tokens for x in questions), default=0)
        excess = [x for x in questions if x.num_tokens > seq_len]
        if not excess:
            return questions
        found = (
            f"{len(excess):,} of {len(questions):,} questions of {self.source} "
            f"{self.split} are longer than a row of {seq_len} tokens, the longest "
            f"{longest:,}"
        )
        if self.too_long == "refuse":
            raise ValueError(
                f"{found}: raise seq_len, or set too_long to 'drop' or 'cut_question'."
            )
        if self.too_long == "drop":
            logging.info("%s: they are left out.", found)
            return [x for x in questions if x.num_tokens <= seq_len]
        fitting = [x for x in questions if len(x.example.targets) < seq_len]
        logging.info(
            "%s: the ends of their questions are cut off; %d, whose answers alone are "
            "as long, are left out.",
            found,
            len(questions) - len(fitting),
        )
        return [x.cut(seq_len - len(x.example.targets)) for x in fitting]


def _fields_of(template: str) -> list[str]:
    """Returns the names in braces in a template.

    Raises:
      ValueError: it is none.
    """
    try:
        parts = [name for _, name, _, _ in string.Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"{template!r} is no template: {error}.") from error
    names = [name for name in parts if name is not None]
    for name in names:
        if not name.isidentifier():
            raise ValueError(
                f"{template!r} has {{{name}}}, which is not the name of a field."
            )
    return names


def _chunks(records: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(records), _CHUNK):
        yield records[begin : begin + _CHUNK]
