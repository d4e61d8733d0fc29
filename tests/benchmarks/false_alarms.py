"""How often each warning fires on runs that are there: a table by warning.

    python -m tests.benchmarks.false_alarms RUN...

Records of runs without `val_teacher_loss` are given the last held-out loss of the
teacher's run, if that lies beside the export. Each run is compared with the BASELINE
beside it, `../../baseline/SEED/run`, if there is one.
"""

from __future__ import annotations

import collections
import json
import pathlib
import sys

from salt_jax.symptoms.detectors import DETECTORS
from salt_jax.symptoms.history import Curve, Span
from salt_jax.symptoms.lookout import FIELD, Lookout
from salt_jax.symptoms.watch import Watch
from salt_jax.telemetry.metric_writer import read_metrics


def held_out(workdir: pathlib.Path) -> dict[int, float]:
    """Returns the held-out losses of a run by step; empty if there are none."""
    if not (workdir / "metrics.jsonl").exists():
        return {}
    return {r["step"]: r["val_loss"] for r in read_metrics(workdir) if "val_loss" in r}


def spans(stages: list[dict]) -> list[Span]:
    """Returns the stages of an experiment.json."""
    found, begin = [], 0
    for stage in stages:
        end, data = stage["end_step"], json.dumps(stage["data"])
        name = stage["name"]
        found.append(Span(name=name, begin_step=begin, end_step=end, data=data))
        begin = end
    return found


def look(workdir: pathlib.Path) -> list[tuple[int, str, str]]:
    """Returns the step, kind and line of each warning about a run."""
    stages = json.loads((workdir / "experiment.json").read_text())["stages"]
    first = stages[0].get("distillation")
    teacher = None
    if first is not None:
        export = pathlib.Path(first["teacher_export"])
        for root in (pathlib.Path(), *workdir.resolve().parents):
            losses = held_out(root / export.parent / "run")
            teacher = teacher or next(reversed(losses.values()), None)
    losses = held_out(workdir.parents[1] / "baseline" / workdir.parent.name / "run")
    curve = Curve(steps=list(losses), losses=list(losses.values()))
    lookout = Lookout(Watch(), spans(stages), baseline=curve)
    found = []
    for record in read_metrics(workdir):
        early = record["step"] <= stages[0]["end_step"]
        if "val_loss" in record and early and teacher is not None:
            record.setdefault("val_teacher_loss", teacher)
        for field, line in lookout.see(record).items():
            found.append((record["step"], field.removeprefix(FIELD), line))
    return found


def main() -> None:
    """Prints the table, and each warning."""
    runs = [pathlib.Path(x) for x in sys.argv[1:]]
    fired = collections.Counter()
    for run in runs:
        for step, kind, line in look(run):
            fired[kind] += 1
            print(f"{run}: step {step}: {kind}: {line}")
    for kind in DETECTORS:
        print(f"{kind:18} {fired[kind]} of {len(runs)} runs")


if __name__ == "__main__":
    main()
