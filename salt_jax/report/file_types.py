"""The types of the files that reports read: the fields that they use, and no others."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class _Stage(TypedDict):
    name: str
    end_step: int
    data: dict[str, Any]


class ExperimentFile(TypedDict):
    """What is read of `experiment.json`; it has every field of the experiment."""

    seed: int
    stages: list[_Stage]


class EvaluationFile(TypedDict):
    """What is read of `evaluation.json`: metrics by split, group and name."""

    step: int
    splits: dict[str, dict[str, dict[str, Any]]]


class SequenceLossesFile(TypedDict):
    """What is read of `sequence_losses.json`: mean losses of sequences by split."""

    splits: dict[str, list[float]]


class SamplesFile(TypedDict):
    """What is read of `samples.json`: continuations, or answers to questions."""

    samples: list[dict[str, str]]


class _Ratio(TypedDict):
    median: float
    quartiles: tuple[float, float]


class _Update(TypedDict):
    name: str
    cost: dict[str, Any]
    flops: float
    blocks: int
    median: float
    quartiles: tuple[float, float]
    coefficient_of_variation: float
    ratio_to_plain: _Ratio


class StepTimesFile(TypedDict):
    """What is read of the file that `time_steps` writes."""

    steps_per_block: int
    updates: list[_Update]


class _Estimate(TypedDict):
    value: float
    stderr: float | None


class _Row(TypedDict):
    name: str
    metric: str
    part: str
    examples: int | None
    shots: int | None
    chance: float | None
    is_share: bool
    marks: dict[str, _Estimate]


class ModelConfigFile(TypedDict):
    """What is read of the `config.json` of a Hugging Face model."""

    architectures: list[str]
    num_hidden_layers: int


class FewShotFile(TypedDict):
    """What is read of `few_shot.json`."""

    tasks: list[_Row]
    slices: NotRequired[list[_Row]]
