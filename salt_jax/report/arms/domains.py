"""Losses on whole splits, by domain, of the runs that were evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.results import ArmResult
from salt_jax.report.arms.tables import Table, number
from salt_jax.report.intervals import Estimate

Losses = Mapping[str, float]  # By domain; of the whole split at "".


def domain_tables(lab: Laboratory, found: Sequence[ArmResult]) -> Iterator[Table]:
    """Yields, for each evaluated split, the loss by domain minus the reference's."""
    reference = lab.file.reference
    for split, domains in _splits(lab).items():
        rows = []
        for arm in found:
            pairs = _pairs(lab, arm.name, split)
            if pairs:
                whole = [losses[""] for losses, _ in pairs if "" in losses]
                cells = [arm.name, arm.regime, f"{len(pairs)}"]
                cells.append(f"{Estimate.of(whole).mean:.4f}" if whole else "-")
                rows.append([*cells, *_differences(pairs, domains)])
        if rows:
            yield Table(
                title=f"Loss minus {reference}'s on whole split {split!r}, by domain",
                note="Nats per token, of runs that were evaluated; a negative number "
                "favors the arm.",
                header=["Arm", "Teacher is", "Seeds", "Loss", "All", *domains],
                rows=rows,
            )


def _splits(lab: Laboratory) -> dict[str, list[str]]:
    """Returns the domains of each split that the reference was evaluated on."""
    splits: dict[str, list[str]] = {}
    for seed in lab.file.seeds:
        said = lab.runs[lab.file.reference, seed].evaluation
        for split, content in (said["splits"] if said else {}).items():
            splits.setdefault(split, [*content.get("domains", {})])
    return splits


def _pairs(lab: Laboratory, name: str, split: str) -> list[tuple[Losses, Losses]]:
    """Returns the losses of an arm and the reference, of each seed that has both."""
    found = []
    for seed in lab.pairs(name, lab.file.seeds):
        one = lab.runs[name, seed].evaluation
        other = lab.runs[lab.file.reference, seed].evaluation
        if one is not None and other is not None:
            found.append((_losses(one, split), _losses(other, split)))
    return found


def _losses(evaluation: Mapping[str, Any], split: str) -> Losses:
    said = evaluation["splits"].get(split, {"total": {}, "domains": {}})
    groups = {"": said["total"], **said.get("domains", {})}
    return {name: means["loss"] for name, means in groups.items() if "loss" in means}


def _differences(
    losses: Sequence[tuple[Losses, Losses]], domains: Sequence[str]
) -> Iterator[str]:
    for name in ("", *domains):
        known = [a[name] - b[name] for a, b in losses if name in a and name in b]
        yield number(Estimate.of(known) if known else None, "+.3f")
