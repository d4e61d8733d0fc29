"""The metrics of a run, written as JSON lines and TensorBoard events."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from salt_jax.files.appending import append
from salt_jax.files.records import read_lines, record_line
from salt_jax.files.writing import is_local, write_file
from salt_jax.loss.weighted_mean import WeightedMean
from salt_jax.telemetry.bucket_copy import BucketCopy
from salt_jax.telemetry.event_file import EventFile
from salt_jax.telemetry.lasting import Lasting
from salt_jax.telemetry.run_files import METRICS_FILE
from salt_jax.telemetry.trackers.tracker import Tracker

_Record = dict[str, float | int | str | bool | None]


class MetricWriter:
    """Writes each record to `metrics.jsonl` and to TensorBoard events.

    A resumed run repeats the steps after its checkpoint, so opening drops the records
    of steps after `from_step`. Only process 0 writes, and later failures to write are
    warnings. In a bucket nothing can be appended: there both are copies of local files,
    renewed once a minute.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        from_step: int,
        trackers: Sequence[Tracker] = (),
    ):
        """Opens the files; `trackers` get the numbers of each record too."""
        self._trackers = trackers
        self._places: list[Lasting[Any]] = []
        self._copy: BucketCopy | None = None
        folder = workdir = epath.Path(workdir)
        if jax.process_index() != 0:
            return
        if not is_local(workdir):
            self._copy = BucketCopy(workdir)
            folder = self._copy.folder
        path = folder / METRICS_FILE
        if (workdir / METRICS_FILE).exists():
            kept = [r for r in read_metrics(workdir) if r["step"] <= from_step]
            write_file(path, "".join(map(record_line, kept)))
        events = EventFile(folder / "events", from_step=from_step)
        self._places = [
            Lasting(str(path), lambda _, x: append(path, _line(x))),
            Lasting("TensorBoard", lambda n, x: events.add(n, _floats(x))),
        ]

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes `values` as the record of step `step`."""
        if not self._places:
            return
        record = {"step": step} | {name: plain(value) for name, value in values.items()}
        for place in self._places:
            place.add(step, record)
        if self._copy is not None:
            self._copy.update()
        numbers = {
            name: float(value)
            for name, value in record.items()
            if name != "step" and isinstance(value, (int, float))
        }
        for tracker in self._trackers:
            tracker.log(step, numbers)

    def flush(self) -> None:
        """Copies the records to the bucket, if the run is in one, and waits."""
        if self._copy is not None:
            self._copy.flush()

    def close(self) -> None:
        """Writes what is left, and closes the files and the trackers."""
        for tracker in self._trackers:
            tracker.close()
        for place in self._places:
            place.close()
        if self._copy is not None:
            self._copy.close()


def _line(record: Mapping[str, Any]) -> bytes:
    return record_line(dict(record)).encode()


def _floats(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: x for name, x in record.items() if isinstance(x, float)}


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the records that a `MetricWriter` wrote in `workdir`, in order.

    An incomplete last line, left by a killed process, is dropped. A number that was not
    finite is NaN.

    Raises:
      FileNotFoundError: there is no metrics file.
      ValueError: a line is damaged.
    """
    path = epath.Path(workdir) / METRICS_FILE
    if not path.exists():
        raise FileNotFoundError(f"No metrics at {path}: was the run ever started?")
    records = read_lines(path, _Record, remedy="remove this line")
    for number, record in enumerate(records, start=1):
        if type(record.get("step")) is not int:
            raise ValueError(f"{path}:{number} has no step: remove this line.")
    return [
        {name: math.nan if value is None else value for name, value in each.items()}
        for each in records
    ]


def recorded_seconds(workdir: epath.Path) -> float:
    """Returns the largest "wall_seconds" in the records of a run; 0 without one."""
    if not (workdir / METRICS_FILE).exists():
        return 0.0
    return max((r.get("wall_seconds", 0.0) for r in read_metrics(workdir)), default=0.0)


def plain(value: Any) -> float | int | str:
    """Returns a metric as a record has it; a weighted mean is its mean."""
    if isinstance(value, WeightedMean):
        value = value.mean()
    return value if isinstance(value, (str, int)) else float(value)
