"""Checks that a resumed run matches the run it resumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from salt_jax import config
from salt_jax.config import Experiment


def check_experiment(
    experiment: Experiment, meta: Mapping[str, Any], accepted: Sequence[str]
) -> None:
    """Checks that the experiment is the one that the checkpoint was saved by.

    Args:
      experiment: The experiment to resume.
      meta: The checkpoint's `meta`; empty if there is no checkpoint.
      accepted: Dotted names of fields that may differ.

    Raises:
      ValueError: another field that affects the run's numbers differs.
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


def check_inputs(
    inputs: Mapping[str, str], meta: Mapping[str, Any], accepted: Sequence[str]
) -> None:
    """Checks that the data and the teachers are those that the run started with.

    The same path may hold other contents: data can be prepared again, scores computed
    again, a teacher exported again.

    Args:
      inputs: Fingerprints by name, as `StageInputs.fingerprints` returns them.
      meta: The checkpoint's `meta`; empty if there is no checkpoint.
      accepted: Names in `inputs` that may differ.

    Raises:
      ValueError: another fingerprint differs.
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
            f"The contents of {', '.join(changed)} changed since the run was started "
            f"({name} had the fingerprint {before[name][:12]} and has "
            f"{inputs[name][:12]}). Restore the old contents, use another --workdir, "
            f"or accept each with --accept_change={name}."
        )
