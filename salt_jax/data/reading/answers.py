"""Questions with answers, for supervised fine-tuning on the answers.

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

An example is the question, a newline, the answer and the end token. Only the answer and
the end token count in the loss.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from salt_jax.data.corpora.document import Limits
from salt_jax.data.reading.answer_rows import AnswerRows
from salt_jax.data.reading.objectives import Example
from salt_jax.data.reading.records import read_records
from salt_jax.data.vocabulary import Vocabulary

TOO_LONG = ("refuse", "drop", "cut_question")

_NUM_THREADS = 8
_CHUNK = 256  # Examples per task of a thread.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A question and its answer, as text and as tokens."""

    question: str
    answer: str
    columns: Mapping[str, str]  # The values by which scores are grouped.
    example: Example  # The inputs end with a newline, the targets with the end token.

    @property
    def num_tokens(self) -> int:
        """The length of the question and its answer, in tokens."""
        return len(self.example.inputs) + len(self.example.targets)

    def cut(self, num_inputs: int) -> Question:
        """Truncates the end of the question so that at most `num_inputs` remain."""
        inputs = self.example.inputs
        if len(inputs) <= num_inputs:
            return self
        kept = np.concatenate([inputs[: num_inputs - 1], inputs[-1:]])
        return dataclasses.replace(self, example=Example(kept, self.example.targets))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """A stage's data: one split of a set of questions with answers."""

    # A folder with SPLIT.jsonl, plain or compressed; "embedded:sft/NAME"; or a dataset
    # of TensorFlow Datasets, "tfds:NAME/CONFIG".
    source: str
    vocabulary: str
    split: str = "train"
    question: str = "{question}"  # A template; fields of a record stand in braces.
    answer: str = "{answer}"
    labels: Sequence[str] = ()  # The words for the values 0, 1, ... of integer fields.
    columns: Sequence[str] = ()  # Scores are also reported by the values of these.
    # What to do with examples longer than a row: "refuse", "drop" or "cut_question",
    # which truncates the question. Answers are never truncated.
    too_long: str = "refuse"
    data_dir: str | None = None  # Of TensorFlow Datasets; None: its default.
    limits: Limits = Limits()  # Of the memory that a file of JSON lines may take.

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
        """False: attention is causal everywhere."""
        return False

    def open_rows(self, *, seq_len: int, seed: int) -> AnswerRows:
        """Reads and tokenizes the split, and packs it into rows.

        Raises:
          FileNotFoundError: the questions or the vocabulary are missing.
          ValueError: a record lacks a field, or is too long and `too_long` is "refuse".
        """
        return AnswerRows(
            [question.example for question in self.read(seq_len=seq_len)],
            seq_len=seq_len,
            seed=seed,
            vocabulary=Vocabulary.open(self.vocabulary),
        )

    def read(self, *, seq_len: int) -> list[Question]:
        """Returns the questions of the split that fit a row, in file order.

        Raises:
          FileNotFoundError: the questions or the vocabulary are missing.
          ValueError: a record lacks a field, or is too long and `too_long` is "refuse",
            or there are no questions.
        """
        vocabulary = Vocabulary.open(self.vocabulary)
        records = read_records(
            self.source,
            self.split,
            sorted(self._fields()),
            data_dir=self.data_dir,
            limits=self.limits,
        )
        newline = vocabulary.encode_array("\n")
        if not len(newline):
            raise ValueError(
                f"The vocabulary {vocabulary.path} has no newline, which separates a "
                "question from its answer: use a vocabulary that keeps newlines."
            )
        end = np.array([vocabulary.eos_id], np.int32)

        def tokenized(chunk: Sequence[Mapping[str, Any]]) -> list[Question]:
            return [self._question(x, vocabulary, newline, end) for x in chunk]

        with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS, "tokenize") as pool:
            found = [q for part in pool.map(tokenized, _chunks(records)) for q in part]
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
        question = _filled(self.question, values)
        answer = _filled(self.answer, values)
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
            f"names {len(self.labels)}, from 0: give labels a word for each number."
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
            logging.info("%s: dropped.", found)
            return [x for x in questions if x.num_tokens <= seq_len]
        fitting = [x for x in questions if len(x.example.targets) < seq_len]
        logging.info(
            "%s: their questions are truncated; %d whose answers alone do not fit are "
            "dropped.",
            found,
            len(questions) - len(fitting),
        )
        return [x.cut(seq_len - len(x.example.targets)) for x in fitting]


def _fields_of(template: str) -> list[str]:
    """Returns the names in braces in a template.

    Raises:
      ValueError: the template is malformed, or braces hold something else.
    """
    try:
        parts = [name for _, name, _, _ in string.Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"{template!r} is no template: {error}.") from error
    names = [name for name in parts if name is not None]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(
                f"{template!r} has {{{name}}}, which is not the name of a field."
            )
    return names


class _Formatter(string.Formatter):
    """Fills templates whose names may have dots."""

    def get_field(
        self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Any, str]:
        return kwargs[field_name], field_name


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _Formatter().vformat(template, (), values)


def _chunks(records: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for begin in range(0, len(records), _CHUNK):
        yield records[begin : begin + _CHUNK]
