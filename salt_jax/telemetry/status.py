"""The status of a run, read from the files of its directory alone.

No device is touched and nothing is written, so it may be asked of a run that is going,
that died, or that has not saved yet.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from salt_jax.files.bill import Bill, read_bill
from salt_jax.files.lease import Holder
from salt_jax.files.lock import holder_of
from salt_jax.files.records import decode_record, read_record
from salt_jax.telemetry.run_files import CHECKPOINTS, EXPERIMENT_FILE, METRICS_FILE
from salt_jax.telemetry.warning_log import Warned, read_warnings
from salt_jax.transition.decision import Decision, decisions_in

_TAIL_BYTES = 1 << 18  # Of the metrics: a hundred records or more.
# Metrics of the last record, by the names that they have here.
_SPEEDS = ("step_seconds", "tokens_per_second", "input_stall", "mfu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint."""

    step: int
    age_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """The status of a run; None for what is not known yet."""

    run: str
    step: int  # The last that was recorded or saved.
    total_steps: int
    stage: str
    is_complete: bool
    record_age_seconds: float | None  # Since a step or a validation was recorded.
    losses: Mapping[str, float]  # "loss", and of the last validation "val_loss".
    speed: Mapping[str, float]  # As in metrics.jsonl, of the last record.
    parts: Mapping[str, float]  # Seconds of the run by what they were spent on.
    checkpoint: Saved | None
    left_seconds: float | None  # To the end, if it goes on as it has.
    skipped_updates: int
    ended: Mapping[str, Decision]  # Of the stages that their rules have ended, by name.
    bill: Bill | None  # As of the last save.
    warnings: Sequence[Warned]
    holder: Holder | None  # The process that works in the directory now.

    @property
    def goodput(self) -> float | None:
        """The share of steps in all time of the run."""
        total = sum(self.parts.values())
        return self.parts["steps"] / total if total else None

    def as_json(self) -> dict[str, Any]:
        """Returns the status as JSON types."""
        return dataclasses.asdict(self) | {"goodput": self.goodput}


def read_status(workdir: epath.PathLike) -> Status:
    """Returns the status of the run in `workdir`.

    Raises:
      FileNotFoundError: no run was started there.
      ValueError: its experiment.json is damaged.
    """
    workdir, now = epath.Path(workdir), time.time()
    path = workdir / EXPERIMENT_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"No {path}: give a run directory that train has written."
        )
    experiment = read_record(path, _Experiment, remedy="the next train writes it anew")
    records = _last_records(workdir / METRICS_FILE)
    saved = _last_checkpoint(workdir / CHECKPOINTS, now)
    steps = [r for r in records if "stage" in r]
    last = steps[-1] if steps else {}
    ends = {stage.name: stage.end_step for stage in experiment.stages}
    total = max(ends.values())
    ended = _decisions_saved(workdir / CHECKPOINTS, saved) | decisions_in(records)
    ends |= {name: decision.step for name, decision in ended.items()}
    step = max(int(last.get("step", 0)), saved.step if saved else 0)
    names: tuple[str, ...] = ("loss", "val_loss")
    losses = {x: float(r[x]) for r in records for x in names if x in r}
    parts = _parts(last)
    return Status(
        run=str(workdir),
        step=step,
        total_steps=total,
        stage=next((name for name, end in ends.items() if step < end), [*ends][-1]),
        is_complete=saved is not None and saved.step >= total,
        record_age_seconds=_age(workdir / METRICS_FILE, now),
        losses=losses,
        speed={name: last[name] for name in _SPEEDS if name in last},
        parts=parts,
        checkpoint=saved,
        left_seconds=_left(total - step, last, parts),
        skipped_updates=int(last.get("skipped_updates", 0)),
        ended=ended,
        bill=_bill(workdir),
        warnings=_warnings(workdir),
        holder=holder_of(workdir),
    )


@dataclasses.dataclass
class _Stage:
    name: str
    end_step: int


@dataclasses.dataclass
class _Experiment:
    stages: list[_Stage]

    def __post_init__(self):
        if not self.stages:
            raise ValueError("no stages")


def _last_records(path: epath.Path) -> list[dict[str, Any]]:
    """Returns the last records of the metrics; damaged and half lines are left out."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().length - _TAIL_BYTES))
        lines = file.read().splitlines()
    found = []
    for line in lines:
        try:
            record = decode_record(line, dict[str, Any], where=str(path), remedy="")
        except ValueError:
            continue
        found.append({k: v for k, v in record.items() if v is not None})
    return found


def _last_checkpoint(folder: epath.Path, now: float) -> Saved | None:
    """Returns the latest checkpoint; one that is still being written has no number."""
    if not folder.exists():
        return None
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    if not steps:
        return None
    age = _age(folder / str(max(steps)), now)
    return Saved(step=max(steps), age_seconds=age or 0.0)


def _decisions_saved(folder: epath.Path, saved: Saved | None) -> dict[str, Decision]:
    """Returns the decisions in the latest checkpoint, which outlive the tail."""
    if saved is None:
        return {}
    path = folder / str(saved.step) / "meta" / "metadata"
    try:
        record = decode_record(
            path.read_bytes(), dict[str, Any], where=str(path), remedy=""
        )
    except (OSError, ValueError):
        return {}
    decided = record.get("meta", {}).get("stage_ends", {}).get("decided", {})
    return {name: Decision(**each) for name, each in decided.items()}


def _age(path: epath.Path, now: float) -> float | None:
    return max(0.0, now - path.stat().mtime) if path.exists() else None


def _parts(record: Mapping[str, Any]) -> dict[str, float]:
    """Returns the seconds of the time sheet in a record, by part."""
    suffix, rates = "_seconds", {"wall_seconds", "step_seconds"}
    others = {
        name.removesuffix(suffix): float(value)
        for name, value in record.items()
        if name.endswith(suffix) and name not in rates
    }
    return {"steps": float(record["seconds"])} | others if record else {}


def _left(
    steps: int, record: Mapping[str, Any], parts: Mapping[str, float]
) -> float | None:
    """Returns the seconds that `steps` take, validations and saves at their share."""
    if "step_seconds" not in record:
        return None
    between = parts.get("validation", 0.0) + parts.get("save", 0.0)
    share = 1.0 + between / max(parts["steps"], 1e-9)
    return steps * float(record["step_seconds"]) * share


def _bill(workdir: epath.Path) -> Bill | None:
    try:
        return read_bill(workdir)
    except ValueError:
        return None  # A damaged one is refused when the run is resumed.


def _warnings(workdir: epath.Path) -> Sequence[Warned]:
    try:
        return read_warnings(workdir)
    except ValueError as error:
        return [Warned(time=time.time(), level="WARNING", message=str(error))]
