"""What decides the time of a step: the fields of an experiment and its stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from salt_jax.data.reading.batch_sizes import Ramp, fewest_microbatches
from salt_jax.loss.gates import EveryToken

# Fields of an experiment that decide how long a step takes.
_COST_FIELDS = (
    *("model", "batch_size", "seq_len", "num_microbatches"),
    *("loss_chunk_tokens", "mesh", "rules"),
)


def pieces_of(
    experiment: Mapping[str, Any], begin_step: int, end_step: int
) -> list[tuple[int, int, int]]:
    """Returns FIRST, END and SIZE of the batches of some steps; see `Ramp.pieces`.

    The experiment is one from `config.as_json`.
    """
    return list(_batches(experiment).pieces(begin_step, end_step))


def _batches(experiment: Mapping[str, Any]) -> Ramp:
    size = experiment["batch_size"]
    return Ramp(sizes=[(0, size)] if isinstance(size, int) else size["sizes"])


def cost_of(
    experiment: Mapping[str, Any], stage: Mapping[str, Any], rows: int | None = None
) -> dict[str, Any]:
    """Returns what decides the time of a stage's step on a batch of `rows`.

    Experiment and stage are those from `config.as_json`. By default `rows` is the size
    of the largest batch.
    """
    distillation = stage["distillation"]
    largest = max(size for _, size in _batches(experiment).sizes)
    rows, count = rows or largest, experiment["num_microbatches"]
    average = {"average": True} if experiment.get("average") else {}
    return (
        average
        | {name: experiment[name] for name in _COST_FIELDS}
        | {
            "batch_size": rows,
            "num_microbatches": fewest_microbatches(rows, largest, count),
            "optimizer": experiment["optimizer"]["type"],
            "objective": stage["data"].get("objective"),
            "teacher": distillation and _teacher_cost(distillation),
        }
    )


def _teacher_cost(distillation: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what decides the time that a teacher adds.

    A loss on every token without padding is not named, as in runs from before there
    was another.
    """
    teacher = ("teacher", "teacher_dtype", "teacher_rules")
    cost = {name: distillation[name] for name in teacher}
    gate = distillation.get("tokens", {}).get("type", EveryToken.__name__)
    if gate != EveryToken.__name__:
        cost["tokens"] = gate
    if (size := distillation.get("real_vocab_size")) is not None:
        cost["real_vocab_size"] = size
    return cost
