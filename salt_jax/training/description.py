"""The numbers of an experiment, resolved from gin files without reading any data."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from salt_jax.config import Experiment, Scoring, Stage, as_json
from salt_jax.data.preparing.prepare import Preparation
from salt_jax.data.reading import batch_ranges
from salt_jax.lab.values import Lab
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.config import TransformerConfig
from salt_jax.model.flops import forward_flops, step_flops
from salt_jax.model.transformer import Transformer, abstract_params
from salt_jax.optim.moving_average import MovingAverage
from salt_jax.studies.known_truth import KnownTruth

PARTS = ("embedding", "attention", "feed_forward", "norms")


def describe(
    job: Experiment | Scoring | Preparation | Lab | KnownTruth,
) -> dict[str, Any]:
    """Returns a description of what gin files bind, as JSON types.

    FLOPs are model FLOPs, as in metrics.jsonl; parameters are counts.
    """
    if isinstance(job, Experiment):
        return _experiment(job)
    if isinstance(job, Scoring):
        return _scoring(job)
    return {"kind": type(job).__name__} | as_json(job)


def count_params(config: TransformerConfig) -> dict[str, int]:
    """Returns the number of parameters by `PARTS`, and in total.

    Biases count with their part, and the norms of queries and keys as norms.
    """
    anywhere = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
    params = abstract_params(Transformer(config, anywhere))
    counts = dict.fromkeys(PARTS, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        counts[_part([str(key.key) for key in path])] += leaf.size
    return counts | {"total": sum(counts.values())}


def _part(names: list[str]) -> str:
    """Returns which of `PARTS` a parameter belongs to, by the names of its modules."""
    if any(name.endswith("norm") for name in names):
        return "norms"
    if "attention" in names:
        return "attention"
    return "feed_forward" if "mlp" in names else "embedding"


def schedule_steps(experiment: Experiment) -> list[int]:
    """Returns the steps at which the schedules of an experiment are worth a look.

    The first and the last, both sides of every transition, and those that a schedule
    itself names, such as the end of a warm-up.
    """
    last = experiment.total_steps - 1
    schedules = [experiment.optimizer.learning_rate]
    schedules += [s.distillation.kd_weight for s in experiment.stages if s.distillation]
    steps = {0, last}
    for stage in experiment.stages:
        steps |= {stage.end_step - 1, stage.end_step}
    for schedule in filter(dataclasses.is_dataclass, schedules):
        for field in dataclasses.fields(schedule):
            if field.name.endswith(("_step", "_steps")):
                steps.add(getattr(schedule, field.name))
    return sorted(step for step in steps if 0 <= step <= last)


def _experiment(experiment: Experiment) -> dict[str, Any]:
    total = _position(experiment, experiment.total_steps)
    return {
        "kind": "Experiment",
        "student": _model(experiment.model),
        "initial_export": as_json(experiment.initial_export),
        "batch_size": as_json(experiment.batch_size),
        "seq_len": experiment.seq_len,
        "num_microbatches": experiment.num_microbatches,
        "tokens_per_step": experiment.largest_batch * experiment.seq_len,
        "seed": experiment.seed,
        "stages": [
            _stage(experiment, begin_step, stage)
            for begin_step, stage in experiment.timeline()
        ],
        "total": {"steps": experiment.total_steps} | total,
        "schedules": [_at(experiment, step) for step in schedule_steps(experiment)],
        "optimizer": as_json(experiment.optimizer),
        "guard": as_json(experiment.guard),
        "average": _average(experiment.average),
        "skip_batches": as_json(experiment.skip_batches),
        "mesh": describe_mesh(experiment.mesh),
        "checkpoints": {
            "save_every": experiment.save_every,
            "save_every_minutes": experiment.save_every_minutes,
            "max_to_keep": experiment.max_to_keep,
            "keep_steps": list(experiment.keep_steps),
        },
        "validation": as_json(experiment.validation),
    }


def _average(average: MovingAverage | None) -> dict[str, Any] | None:
    if average is None:
        return None
    return as_json(average) | {"horizon": round(average.horizon, 3)}


def _stage(experiment: Experiment, begin_step: int, stage: Stage) -> dict[str, Any]:
    begin, end = (_position(experiment, step) for step in (begin_step, stage.end_step))
    distillation = stage.distillation
    return {
        "name": stage.name,
        "begin_step": begin_step,
        "end_step": stage.end_step,
        "tokens": end["tokens"] - begin["tokens"],
        "flops": end["flops"] - begin["flops"],
        "data": as_json(stage.data),
        "leave": as_json(stage.leave),
        "teacher": None
        if distillation is None
        else _model(distillation.teacher)
        | {
            "export": distillation.teacher_export,
            "held_dtype": distillation.teacher_dtype,
            "temperature": distillation.temperature,
            "kd_weight": as_json(distillation.kd_weight),
            "tokens": as_json(distillation.tokens),
            "real_vocab_size": distillation.real_vocab_size,
        },
    }


def _position(experiment: Experiment, step: int) -> dict[str, Any]:
    """Returns tokens and FLOPs up to `step`, if no stage ends early."""
    tokens = flops = 0
    for begin_step, stage in experiment.timeline():
        end = max(begin_step, min(step, stage.end_step))
        rows = experiment.batches.rows
        skipped = batch_ranges.within(experiment.skip_batches, begin_step, end)
        read = rows(begin_step, end) - sum(rows(*pair) for pair in skipped)
        teacher = stage.distillation.teacher if stage.distillation else None
        tokens += read * experiment.seq_len
        per_token = step_flops(experiment.model, teacher, experiment.seq_len)
        flops += read * experiment.seq_len * per_token
    return {"tokens": tokens, "flops": float(flops)}


def _at(experiment: Experiment, step: int) -> dict[str, Any]:
    """Returns what the schedules give after `step` updates."""
    stage = next(s for s in experiment.stages if step < s.end_step)
    distillation = stage.distillation
    return {
        "step": step,
        "stage": stage.name,
        "learning_rate": float(experiment.optimizer.learning_rate(step)),
        "kd_weight": float(distillation.kd_weight(step)) if distillation else None,
    }


def _scoring(scoring: Scoring) -> dict[str, Any]:
    per_sequence = forward_flops(scoring.scorer, scoring.seq_len) * scoring.seq_len
    return {
        "kind": "Scoring",
        "scorer": _model(scoring.scorer)
        | {"export": scoring.scorer_export, "held_dtype": scoring.scorer_dtype},
        "data": as_json(scoring.data),
        "seq_len": scoring.seq_len,
        "batch_size": scoring.batch_size,
        "pool": scoring.pool,
        "ks": list(scoring.ks),
        "output": scoring.output,
        "flops_per_sequence": per_sequence,
        "flops": None if scoring.pool is None else per_sequence * scoring.pool,
        "mesh": describe_mesh(scoring.mesh),
    }


def _model(config: TransformerConfig) -> dict[str, Any]:
    return {"config": as_json(config), "params": count_params(config)}


def describe_mesh(shape: MeshShape) -> dict[str, Any]:
    """Returns the size of each mesh axis on the devices here.

    `data` is None where it takes whatever devices the other axes leave, and those here
    do not fill the mesh.
    """
    axes: dict[str, int | None] = dataclasses.asdict(shape)
    num_devices = len(jax.devices())
    try:
        axes = {name: int(size) for name, size in shape.build().shape.items()}
    except ValueError:
        return {"axes": axes, "devices_here": num_devices, "fills_devices_here": False}
    return {"axes": axes, "devices_here": num_devices, "fills_devices_here": True}
