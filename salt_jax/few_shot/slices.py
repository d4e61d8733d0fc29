"""Examples that a teacher finds easy, medium and hard, and models on each third."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from salt_jax.few_shot.metrics import Metric, sample_mean
from salt_jax.few_shot.table import Row, mean_rows

PARTS = ("easy", "medium", "hard")
Samples = Sequence[Mapping[str, Any]]


def thirds(
    samples: Samples, metric: str, likelihoods: Sequence[float]
) -> dict[str, list[int]]:
    """Splits the examples of a task by how well the teacher did.

    Args:
      samples: The teacher's, of one task.
      metric: Greater is better.
      likelihoods: Nats that the teacher gives to each right answer: they order those
        that the metric does not tell apart.

    Returns:
      By part, the ids of its examples. The parts differ by at most one in number.
    """
    order = sorted(
        range(len(samples)), key=lambda i: (-samples[i][metric], -likelihoods[i], i)
    )
    ids = [samples[i]["doc_id"] for i in order]
    cuts = [len(ids) * part // 3 for part in range(4)]
    return {
        name: ids[begin:end]
        for name, (begin, end) in zip(PARTS, itertools.pairwise(cuts), strict=True)
    }


def can_be_sliced(measure: Metric, samples: Samples) -> bool:
    """Returns whether a task gives each example a number of its own, a share."""
    if not (measure.is_first and measure.is_share and len(samples) >= len(PARTS)):
        return False
    return all(
        isinstance(sample.get(measure.metric), int | float) for sample in samples
    )


def slice_rows(
    parts: Mapping[Metric, Mapping[str, Sequence[int]]],
    samples: Mapping[str, Mapping[str, Samples]],
    groups: Mapping[str, Any],
) -> list[Row]:
    """Returns a row for each part of each task, and the means of groups by part.

    Args:
      parts: The ids of each part's examples, by measure and part.
      samples: By model and task.
      groups: lm-eval's groups, by name.
    """
    found: list[Row] = []
    for measure, ids_of in parts.items():
        for part, ids in ids_of.items():
            marks = {}
            for model, of_task in samples.items():
                value_of = {
                    x["doc_id"]: x[measure.metric] for x in of_task[measure.task]
                }
                values = [float(value_of[i]) * measure.factor for i in ids]
                marks[model] = sample_mean(values)
            found.append(
                Row(
                    name=measure.task,
                    metric=measure.metric,
                    part=part,
                    examples=len(ids),
                    marks=marks,
                )
            )
    for part in PARTS:
        found += mean_rows([row for row in found if row.part == part], groups)
    return found
