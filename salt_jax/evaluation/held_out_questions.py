"""Held-out questions: the loss of their answers, and scores of generated ones.

Dimensions: N rows, L length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from salt_jax.config import Answering
from salt_jax.data.reading.answer_rows import AnswerRows
from salt_jax.data.reading.answers import Answers, Question
from salt_jax.evaluation.answer_scores import mean_scores
from salt_jax.evaluation.asked import Asked, spread
from salt_jax.evaluation.held_out import TOTAL, Evaluation, HeldOutRows
from salt_jax.evaluation.reader import reader_of
from salt_jax.model.transformer import Params
from salt_jax.training.loop import Measure
from salt_jax.training.program import Program

_NUM_SAMPLES = 8

# The columns of the table: heading, metric and format.
_COLUMNS = (
    ("questions", "questions", "{:,}"),
    ("loss", "loss", "{:.4f}"),
    ("exact", "exact_match", "{:.1%}"),
    ("F1", "f1", "{:.3f}"),
    ("R-1", "rouge1", "{:.3f}"),
    ("R-2", "rouge2", "{:.3f}"),
    ("R-L", "rougeL", "{:.3f}"),
)


@dataclasses.dataclass(frozen=True)
class HeldOutQuestions:
    """Questions, measured by the loss and by the scores of their answers."""

    program: Program
    data: Answers

    def open(self) -> Measure:
        """Opens the validation questions; see `HeldOut.open`.

        Without `answering` the measure is the loss of the wanted answers alone. With
        it, `num_questions` questions are answered too, evenly spread over the split.
        """
        experiment = self.program.experiment
        validation = experiment.validation
        assert validation is not None
        rows, reader, asked = self.rows(), reader_of(self.program), None
        if (answering := validation.answering) is not None:
            questions = self.data.read(seq_len=experiment.seq_len)
            some = spread(questions, answering.num_questions)
            logging.info("Asking %d of %d questions.", len(some), len(questions))
            asked = Asked.of(self.program, some, self.data, answering)

        def measure(params: Params) -> dict[str, float]:
            values = {"val_loss": reader.mean_loss(params, rows.read, rows.count)}
            if asked is not None:
                means = mean_scores(asked.scores(asked.answers(params)))
                values |= {f"val_{name}": value for name, value in means.items()}
            return values

        return measure

    def rows(self) -> HeldOutRows:
        """Returns the validation questions with their answers; see `HeldOut.rows`."""
        experiment = self.program.experiment
        assert experiment.validation is not None
        rows = self.data.open_rows(seq_len=experiment.seq_len, seed=0)
        return HeldOutRows(
            read=rows.read,
            count=min(experiment.validation.num_sequences, rows.rows_per_epoch),
            fingerprint=rows.fingerprint(),
        )

    def evaluate(self, params: Params) -> Evaluation:
        """Answers all questions of the splits that `answering` names.

        Raises:
          FileNotFoundError: a split is missing.
          ValueError: the experiment has no `answering`; or as for `Asked.of`.
        """
        validation = self.program.experiment.validation
        if validation is None or validation.answering is None:
            raise ValueError(
                "Evaluating questions needs the validation's answering, got None: set "
                "config.Validation.answering = @config.Answering()."
            )
        splits: dict[str, Any] = {}
        samples: list[dict[str, str]] = []
        for split in validation.answering.splits:
            splits[split], samples = self._split(split, validation.answering, params)
        return Evaluation(splits=splits, samples=samples, table=_table(splits, samples))

    def _split(
        self, split: str, answering: Answering, params: Params
    ) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """Returns the metrics of `split`, and samples of its answers."""
        data = dataclasses.replace(self.data, split=split)
        questions = data.read(seq_len=self.program.experiment.seq_len)
        asked = Asked.of(self.program, questions, data, answering)
        answers = asked.answers(params)
        rows = asked.scores(answers)
        nats = _nats(self.program, params, asked)
        for row, nats_of, question in zip(rows, nats, asked.questions, strict=True):
            row |= {"nats": nats_of, "tokens": len(question.example.targets)}
        metrics = _grouped(asked.questions, rows, data.columns)
        return metrics, _samples(asked.questions, answers)


def _table(
    splits: Mapping[str, Mapping[str, Any]], samples: Sequence[Mapping[str, str]]
) -> str:
    """Returns one row per split and group, and the samples."""
    rows = [
        (split, name, means)
        for split, result in splits.items()
        for name, means in _named_groups(result).items()
    ]
    width = max(len(name) for _, name, _ in rows)
    heading = "".join(f" {name:>9}" for name, _, _ in _COLUMNS)
    lines = [f"{'split':10} {'group':{width}}{heading}"]
    for split, name, means in rows:
        cells = "".join(f" {s.format(means[key]):>9}" for _, key, s in _COLUMNS)
        lines.append(f"{split:10} {name:{width}}{cells}")
    for sample in samples:
        lines += ["", f"Question: {sample['question']}"]
        lines += [f"Answer:   {sample['answer']}", f"Wanted:   {sample['wanted']}"]
    return "\n".join(lines)


def _named_groups(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the metrics of a split by "COLUMN: VALUE", and of all as "total"."""
    groups = {
        f"{column}: {value}": means
        for column, values in result["columns"].items()
        for value, means in values.items()
    }
    return {**groups, TOTAL: result[TOTAL]}


def _nats(program: Program, params: Params, asked: Asked) -> list[float]:
    """Returns the summed cross-entropy [nats] of the wanted answer to each question."""
    rows = AnswerRows(
        [question.example for question in asked.questions],
        seq_len=program.experiment.seq_len,
        seed=0,
        vocabulary=asked.vocabulary,
    )
    reader = reader_of(program)
    found = [0.0] * len(asked.questions)
    numbers = reader.batches(np.arange(rows.rows_per_epoch))
    batches = ((some, rows.read(some)) for some in numbers)
    read = reader.read_batches(params, (((some, x), x) for some, x in batches))
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
    """Returns some questions with their answers, evenly spread over all."""
    places = spread(range(len(questions)), _NUM_SAMPLES)
    return [
        {
            "question": questions[place].question,
            "answer": answers[place],
            "wanted": questions[place].answer,
        }
        for place in places
    ]
