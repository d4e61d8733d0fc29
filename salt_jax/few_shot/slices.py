"""Results on examples that are easy, medium and hard for a teacher."""

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
    """Splits the examples of a task into thirds by how well the teacher does.

    Args:
      samples: The teacher's samples of the task.
      metric: The metric that orders the examples; greater is easier.
      likelihoods: The teacher's log-likelihood of each right answer, in nats; they
        break ties.

    Returns:
      The ids of the examples by part. The sizes of parts differ by at most one.
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
    """Returns whether a metric is primary and has a proportion for each example."""
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
    """Returns a row for each part of each task, and for the group means of each part.

    Args:
      parts: The ids of the examples, by metric and part.
      samples: The samples, by model and task.
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
