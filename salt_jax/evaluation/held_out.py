"""The protocol of held-out data, and the result of evaluating a model on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

from salt_jax.batch import Batch
from salt_jax.files.records import write_record
from salt_jax.model.transformer import Params
from salt_jax.training.loop import Measure

TOTAL = "total"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of a model on whole splits, and samples of its text."""

    splits: Mapping[str, Mapping[str, Any]]  # JSON: metrics by split, group and name.
    samples: Sequence[Mapping[str, str]]
    table: str  # The metrics for people: one row per split and group.
    # Of held-out text: the mean loss of sequences, by split, in their order.
    sequence_losses: Mapping[str, Sequence[float]] = dataclasses.field(
        default_factory=dict
    )

    def write(
        self, workdir: epath.Path, *, step: int, params: int, suffix: str = ""
    ) -> None:
        """Writes `evaluation.json`, `samples.json` and `sequence_losses.json`.

        Args:
          workdir: The run directory; created if missing.
          step: Updates that the model has had.
          params: The number of parameters of the model.
          suffix: What the names of the files have before ".json".
        """
        workdir.mkdir(parents=True, exist_ok=True)
        record = {"step": step, "params": params, "splits": self.splits}
        write_record(workdir / f"evaluation{suffix}.json", record)
        samples = {"samples": list(self.samples)}
        write_record(workdir / f"samples{suffix}.json", samples)
        if self.sequence_losses:
            losses = {"step": step, "splits": dict(self.sequence_losses)}
            write_record(workdir / f"sequence_losses{suffix}.json", losses)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOutRows:
    """The rows that a validation reads, the same every time."""

    read: Callable[[np.ndarray], Batch]  # By their numbers, int64 [N].
    count: int  # They are the first rows.
    fingerprint: str  # Of the data that they are the first rows of.


class HeldOut(Protocol):
    """One kind of held-out data, with the model that is measured on it.

    A new kind is a class with these methods and an entry in `held_out_kinds`.
    """

    def open(self) -> Measure:
        """Opens what the validation names; returns the measure used while training.

        Raises:
          FileNotFoundError: the data is missing.
          ValueError: the data does not fit the experiment.
        """

    def rows(self) -> HeldOutRows:
        """Opens the rows of the validation, for the teacher to read too.

        Raises the errors of `open`.
        """

    def evaluate(self, params: Params) -> Evaluation:
        """Evaluates `params` on whole splits.

        Raises:
          FileNotFoundError: a split is missing.
          ValueError: the data does not fit the experiment.
        """
