"""How well a fine-tuned student answers whole splits of questions.

Dimensions: N rows, L length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from salt_jax.data.reading.answer_rows import AnswerRows
from salt_jax.data.reading.answers import Answers, Question
from salt_jax.evaluation.answer_scores import mean_scores
from salt_jax.evaluation.asked import Asked, spread
from salt_jax.evaluation.held_out import reading_of
from salt_jax.model.transformer import Params
from salt_jax.training.program import Program

TOTAL = "total"
_NUM_SAMPLES = 8

# What a table shows: its heading, the field, and how.
_COLUMNS = (
    ("questions", "questions", "{:,}"),
    ("loss", "loss", "{:.4f}"),
    ("exact", "exact_match", "{:.1%}"),
    ("F1", "f1", "{:.3f}"),
    ("R-1", "rouge1", "{:.3f}"),
    ("R-2", "rouge2", "{:.3f}"),
    ("R-L", "rougeL", "{:.3f}"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswersEvaluation:
    """What came of asking a student."""

    # By split: "total", and "columns" with the same of each value of each column.
    splits: Mapping[str, Mapping[str, Any]]
    samples: Sequence[Mapping[str, str]]  # Of "question", "answer" and "wanted".

    def __str__(self) -> str:
        """Returns a row for each split and group, and the samples."""
        width = max(len(name) for _, name, _ in self._rows())
        heading = "".join(f" {name:>9}" for name, _, _ in _COLUMNS)
        lines = [f"{'split':10} {'group':{width}}{heading}"]
        for split, name, means in self._rows():
            cells = "".join(f" {s.format(means[key]):>9}" for _, key, s in _COLUMNS)
            lines.append(f"{split:10} {name:{width}}{cells}")
        for sample in self.samples:
            lines += ["", f"Question: {sample['question']}"]
            lines += [f"Answer:   {sample['answer']}", f"Wanted:   {sample['wanted']}"]
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        return [
            (split, name, means)
            for split, result in self.splits.items()
            for name, means in named_groups(result).items()
        ]


def named_groups(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the means of a split by "COLUMN: VALUE", and of all as "total"."""
    groups = {
        f"{column}: {value}": means
        for column, values in result["columns"].items()
        for value, means in values.items()
    }
    return {**groups, TOTAL: result[TOTAL]}


def evaluate_answers(program: Program, params: Params) -> AnswersEvaluation:
    """Asks `params` all questions of the splits that the experiment names.

    Raises:
      FileNotFoundError: a split is missing.
      ValueError: the experiment does not say how to ask; or as for `Asked.of`.
    """
    validation = program.experiment.validation
    assert validation is not None and isinstance(validation.data, Answers)
    if validation.answering is None:
        raise ValueError(
            "The validation does not say how its questions are asked: give it "
            "answering = @config.Answering()."
        )
    splits, samples = {}, []
    for split in validation.answering.splits:
        data = dataclasses.replace(validation.data, split=split)
        questions = data.read(seq_len=program.experiment.seq_len)
        asked = Asked.of(program, questions, data)
        answers = asked.answers(params)
        rows = asked.scores(answers)
        nats = _nats(program, params, asked)
        for row, nats_of, question in zip(rows, nats, asked.questions, strict=True):
            row |= {"nats": nats_of, "tokens": len(question.example.targets)}
        splits[split] = _grouped(asked.questions, rows, data.columns)
        samples = _samples(asked.questions, answers)
    return AnswersEvaluation(splits=splits, samples=samples)


def _nats(program: Program, params: Params, asked: Asked) -> list[float]:
    """Returns the nats of the wanted answer to each question, added up."""
    rows = AnswerRows(
        [question.example for question in asked.questions],
        seq_len=program.experiment.seq_len,
        seed=0,
        vocabulary=asked.vocabulary,
    )
    reading = reading_of(program)
    found = [0.0] * len(asked.questions)
    numbers = reading.batches(np.arange(rows.rows_per_epoch))
    batches = ((some, rows.read(some)) for some in numbers)
    read = reading.read_batches(params, (((some, x), x) for some, x in batches))
    for (some, batch), on_host in read:
        nats_NL = on_host.ce_NL * np.asarray(batch.weights_BL, np.float64)
        segments_NL = np.asarray(batch.segments_BL)
        for row, ids in enumerate(rows.ids(some)):
            nats = np.bincount(segments_NL[row], nats_NL[row], len(ids) + 1)[1:]
            for number, value in zip(ids.tolist(), nats.tolist(), strict=True):
                found[number] = value
    return found


def _grouped(
    questions: Sequence[Question],
    rows: Sequence[Mapping[str, float]],
    columns: Sequence[str],
) -> dict[str, Any]:
    grouped: dict[str, dict[str, Any]] = {column: {} for column in columns}
    for column in columns:
        for value in sorted({question.columns[column] for question in questions}):
            pairs = zip(questions, rows, strict=True)
            of = [row for question, row in pairs if question.columns[column] == value]
            grouped[column][value] = _means(of)
    return {"columns": grouped, TOTAL: _means(rows)}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    nats, tokens = (sum(row[name] for row in rows) for name in ("nats", "tokens"))
    counts = {"questions": len(rows), "tokens": tokens}
    return counts | {"loss": nats / tokens} | mean_scores(rows)


def _samples(
    questions: Sequence[Question], answers: Sequence[str]
) -> list[dict[str, str]]:
    """Returns some questions with their answers, spread over all."""
    places = spread(range(len(questions)), _NUM_SAMPLES)
    return [
        {
            "question": questions[place].question,
            "answer": answers[place],
            "wanted": questions[place].answer,
        }
        for place in places
    ]
