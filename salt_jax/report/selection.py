"""The selection report: `selection.html` and `selection.json`."""

from __future__ import annotations

from collections.abc import Iterator

from etils import epath

from salt_jax.config import Experiment
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.selecting.selection import Selection
from salt_jax.files.records import write_record
from salt_jax.files.writing import write_file
from salt_jax.report.selection_numbers import Selected
from salt_jax.report.selection_page import selection_page


def report_selections(experiment: Experiment, output: epath.PathLike) -> list[str]:
    """Writes `selection.json` and `selection.html` into the directory `output`.

    Args:
      experiment: An experiment with stages that select.
      output: The output directory, created if missing.

    Returns:
      Warnings, one line each, with the stage's name.

    Raises:
      FileNotFoundError: the data, its vocabulary or its scores are missing.
      ValueError: no stage selects by scores, data and scores do not match or are
        damaged, or nothing would be kept.
    """
    selected = list(_selected(experiment))
    if not selected:
        names = [stage.name for stage in experiment.stages]
        raise ValueError(f"No stage selects its data: none of {names} has a Selection.")
    described = [one.describe() for one in selected]
    output = epath.Path(output)
    write_record(output / "selection.json", {"stages": described})
    write_file(output / "selection.html", selection_page(described))
    return [
        f"Stage {one['stage']!r}: {line}"
        for one in described
        for line in one["warnings"]
    ]


def _selected(experiment: Experiment) -> Iterator[Selected]:
    for stage in experiment.stages:
        data = stage.data
        if isinstance(data, PreparedText) and isinstance(data.selection, Selection):
            dataset = data.open(seq_len=experiment.seq_len)
            yield Selected(
                experiment=experiment,
                stage=stage,
                data=data,
                selection=data.selection,
                choice=data.selection.choose(dataset),
            )
