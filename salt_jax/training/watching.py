"""Opens the lookout of a run: its stages, its records so far, and BASELINE's curve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from salt_jax import config
from salt_jax.config import Experiment
from salt_jax.symptoms.history import Curve, Span
from salt_jax.symptoms.lookout import Lookout
from salt_jax.symptoms.selections import STARVED_DOMAIN
from salt_jax.telemetry.metric_writer import METRICS_FILE, read_metrics
from salt_jax.training.stage_inputs import StageInputs


def open_lookout(
    experiment: Experiment,
    workdir: epath.Path,
    step: int,
    inputs: Sequence[StageInputs],
) -> Lookout | None:
    """Returns the lookout of a run, which warns of selections at once.

    Args:
      experiment: What is run; without a `watch` there is no lookout.
      workdir: The run directory; later records than those of `step` do not count.
      step: The step of the checkpoint that is resumed; 0 without one.
      inputs: The inputs of the stages that are left.

    Raises:
      FileNotFoundError: the run that is named as BASELINE has no metrics.
      ValueError: they have no held-out loss, this run measures none, or a record is
        damaged.
    """
    watch = experiment.watch
    if watch is None:
        return None
    spans = [
        Span(
            name=stage.name,
            begin_step=begin_step,
            end_step=stage.end_step,
            data=json.dumps(config.as_json(stage.data), sort_keys=True, default=repr),
        )
        for begin_step, stage in experiment.timeline()
    ]
    records: list[dict[str, Any]] = []
    if step and (workdir / METRICS_FILE).exists():
        records = [r for r in read_metrics(workdir) if r["step"] <= step]
    baseline = None
    if watch.baseline is not None:
        baseline = _curve(watch.baseline, experiment)
    lookout = Lookout(watch, spans, baseline=baseline, records=records)
    for one in inputs:
        if lines := one.starved_domains(watch):
            lookout.expect(one.stage.name, STARVED_DOMAIN, "; ".join(lines))
    return lookout


def _curve(baseline: str, experiment: Experiment) -> Curve:
    if experiment.validation is None:
        raise ValueError(
            f"watch.baseline={baseline!r} compares held-out losses, and this "
            "experiment has no validation: give it one, or leave out the baseline."
        )
    records = (r for r in read_metrics(baseline) if "val_loss" in r)
    found = {record["step"]: record["val_loss"] for record in records}
    if not found:
        raise ValueError(
            f"The run {baseline} has no val_loss in its {METRICS_FILE}: name one with "
            "a validation as the baseline."
        )
    return Curve(steps=sorted(found), losses=[found[step] for step in sorted(found)])
