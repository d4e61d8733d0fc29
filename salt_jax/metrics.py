"""Means that can be added; where they are written.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from etils import epath
from tensorboardX import SummaryWriter

METRICS_FILE = "metrics.jsonl"


@flax.struct.dataclass
class WeightedMean:
    """A sum and the weight it was taken over.

    Adding two of these is exact; averaging two averages is not. Keep the pair
    until a number is logged.
    """

    total: jax.Array
    weight: jax.Array

    @classmethod
    def of(cls, values_BL: jax.Array, weights_BL: jax.Array) -> WeightedMean:
        """Returns the weighted sum of `values_BL` and the sum of the weights."""
        return cls(jnp.sum(values_BL * weights_BL), jnp.sum(weights_BL))

    def __add__(self, other: WeightedMean) -> WeightedMean:
        """Returns the pair over both sets of values."""
        return WeightedMean(self.total + other.total, self.weight + other.weight)

    def mean(self) -> jax.Array:
        """Returns the mean, or zero over no weight at all."""
        return self.total / jnp.maximum(self.weight, 1.0)


class MetricWriter:
    """Writes each record to `metrics.jsonl` and to TensorBoard events.

    A run that goes on from a checkpoint repeats the steps after it, so opening
    drops the records of steps later than `from_step`. Only process 0 writes.
    """

    def __init__(self, workdir: epath.PathLike, *, from_step: int):
        self._jsonl = epath.Path(workdir) / METRICS_FILE
        self._events = None
        if jax.process_index() != 0:
            return
        if self._jsonl.exists():
            kept = [r for r in read_metrics(workdir) if r["step"] <= from_step]
            partial = self._jsonl.with_name(f"{METRICS_FILE}.partial")
            partial.write_text("".join(map(_as_line, kept)))
            partial.replace(self._jsonl)
        self._events = SummaryWriter(
            str(epath.Path(workdir) / "events"), purge_step=from_step + 1
        )

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Records `values` as what was measured after `step` updates."""
        if self._events is None:
            return
        record = {"step": step} | {
            name: _plain(value) for name, value in values.items()
        }
        with self._jsonl.open("a") as file:
            file.write(_as_line(record))
        for name, value in record.items():
            if isinstance(value, float):
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes the event file."""
        if self._events is not None:
            self._events.close()


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the records that a `MetricWriter` wrote in `workdir`, in order.

    The last line is left out if it is not whole: that of a process that was killed.

    Raises:
      FileNotFoundError: there are none.
      ValueError: another line is not a record.
    """
    path = epath.Path(workdir) / METRICS_FILE
    if not path.exists():
        raise FileNotFoundError(f"No metrics at {path}: was the run ever started?")
    lines = path.read_text().splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}:{number} is not JSON; remove it.") from error
    return records


def _as_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, WeightedMean):
        value = value.mean()
    return value if isinstance(value, (str, int)) else float(value)
