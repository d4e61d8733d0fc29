"""Whether a run that goes on is the run that was begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from salt_jax import config
from salt_jax.config import Experiment
from salt_jax.data.reading.loader import Loader
from salt_jax.training.program import Program


def check_experiment(
    experiment: Experiment, meta: Mapping[str, Any], accepted: Sequence[str]
) -> None:
    """Refuses another experiment than that of the checkpoint that `meta` is of.

    Args:
      experiment: What is to go on.
      meta: What was saved beside the checkpoint; empty if there is none.
      accepted: Dotted names of what may differ.

    Raises:
      ValueError: something else differs that decides the numbers of a run.
    """
    if not meta:
        return
    changed = config.changed_fields(
        config.without_operational(meta["experiment"]),
        config.without_operational(config.as_json(experiment)),
    )
    refused = sorted(set(changed) - set(accepted))
    if refused:
        raise ValueError(
            f"The run was started with other values of {', '.join(refused)}: use "
            f"another --workdir, or accept each with --accept_change={refused[0]}."
        )


def inputs_of(program: Program, loaders: Mapping[str, Loader]) -> dict[str, str]:
    """Returns the fingerprints of what stages read, and of their teachers.

    Args:
      program: The run's.
      loaders: By the names of the stages that are left.

    Returns:
      Fingerprints by "data.STAGE" and "teacher.STAGE".
    """
    found = {}
    for stage in program.experiment.stages:
        if stage.name not in loaders:
            continue
        found[f"data.{stage.name}"] = loaders[stage.name].rows.fingerprint()
        if stage.distillation is not None:
            found[f"teacher.{stage.name}"] = program.open_teacher(stage).fingerprint
    return found


def check_inputs(
    inputs: Mapping[str, str], meta: Mapping[str, Any], accepted: Sequence[str]
) -> None:
    """Refuses other data, or another teacher, than the run was started with.

    Paths may be the same and hold something else: what is prepared, scored or
    exported again.

    Args:
      inputs: As `inputs_of` returns them.
      meta: What was saved beside the checkpoint; empty if there is none.
      accepted: Names of `inputs` that may differ.

    Raises:
      ValueError: others differ.
    """
    before = meta.get("inputs", {})
    changed = sorted(
        name
        for name, fingerprint in inputs.items()
        if before.get(name, fingerprint) != fingerprint and name not in accepted
    )
    if changed:
        name = changed[0]
        raise ValueError(
            f"{', '.join(changed)}: not what the run was started with (it was "
            f"{before[name][:12]} and is {inputs[name][:12]}), although the paths are "
            "the same. Put back what was there, use another --workdir, or accept each "
            f"with --accept_change={name}."
        )
