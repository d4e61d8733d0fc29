"""What the command `bias_variance` measures of an experiment's teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etils import epath

from salt_jax.bias_variance import held_out_labels
from salt_jax.bias_variance.labels import Labels
from salt_jax.config import Experiment


def measure_labels(
    experiment: Experiment,
    exports: Sequence[epath.PathLike],
    *,
    num_batches: int,
    confident_below: float,
) -> dict[str, Any]:
    """Measures the labels of an experiment's teacher, at students; JSON types.

    Args:
      experiment: With a teacher; its batches, its temperature and its mesh are used.
      exports: Exports of its student, of several steps for example.
      num_batches: Batches over which gradients are resampled.
      confident_below: The entropy [nats] below which the teacher is confident.

    Raises:
      FileNotFoundError: data, a vocabulary or an export is missing.
      ValueError: no stage has a teacher, an export is of another model or vocabulary,
        two have one name, or they do not fit the devices.
    """
    labels = Labels.open(experiment)
    opened = labels.students(exports)
    students = {_name(export): export for export in opened}
    if len(students) < len(opened):
        raise ValueError(
            f"Two of the exports have one name: {', '.join(map(_name, opened))}. Give "
            "exports of different steps or folders."
        )
    teacher = labels.inputs.teacher
    assert teacher is not None
    thirds = held_out_labels.measure(labels, students, confident_below)
    return {
        "teacher": str(teacher.path),
        "distance_from_truth": labels.distance_from_truth(num_batches),
        "gradients": [
            {"student": name, "step": export.provenance.get("step")}
            | labels.gradient_moments(labels.load(export), num_batches)
            for name, export in students.items()
        ],
        "difficulty": thirds and {"confident_below": confident_below, "thirds": thirds},
    }


def _name(export: Any) -> str:
    step = export.provenance.get("step")
    return export.path.name if step is None else f"step {step}"
