"""Differences by difficulty: held-out sequences in thirds, easy to hard.

The order is that of the small models' mean loss. A ranking by the reference's own loss
would flatter every other model on its hardest third: part of what is hard to one model
is chance of that model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.results import ArmResult
from salt_jax.report.arms.tables import Table, number
from salt_jax.report.intervals import Estimate

THIRDS = ("easy", "medium", "hard")


def difficulty_tables(lab: Laboratory, found: Sequence[ArmResult]) -> Iterator[Table]:
    """Yields, by split, each arm's loss minus the reference's on each third.

    None of a split that no small model was evaluated on.

    Raises:
      ValueError: runs were evaluated on different numbers of sequences.
    """
    for split in ranked_splits(lab):
        parts = np.array_split(np.argsort(_difficulty(lab, split), kind="stable"), 3)
        rows = []
        for arm in found:
            pairs = _pairs(lab, arm.name, split)
            if pairs:
                means = [
                    Estimate.of([np.mean(x[part]) for x in pairs]) for part in parts
                ]
                cells = [number(each, "+.3f") for each in means]
                rows.append([arm.name, arm.regime, f"{len(pairs)}", *cells])
        if rows:
            yield Table(
                title=f"Loss minus {lab.file.reference}'s on {split!r}, by difficulty",
                note="Sequences in thirds by the mean loss of the small models, which "
                "are neither of the two that are compared. Nats per token, a sequence "
                "counting as one.",
                header=["Arm", "Teacher is", "Seeds", *THIRDS],
                rows=rows,
            )


def ranked_splits(lab: Laboratory) -> list[str]:
    """Returns the splits that a small model was evaluated on."""
    return list(dict.fromkeys(split for x in _small_models(lab) for split in x))


def _difficulty(lab: Laboratory, split: str) -> np.ndarray:
    """Returns the mean loss of each sequence over the small models and their seeds."""
    found = [losses[split] for losses in _small_models(lab) if split in losses]
    _check_equal([len(losses) for losses in found], split)
    return np.mean(np.sort(found, axis=0), axis=0)  # In no order of seeds.


def _small_models(lab: Laboratory) -> list[Mapping[str, Sequence[float]]]:
    runs = [
        lab.runs[each.name, seed]
        for each in lab.file.small_models
        for seed in lab.file.seeds
    ]
    # All seeds may share one small model.
    return list({run.workdir: run.sequence_losses for run in runs}.values())


def _pairs(lab: Laboratory, name: str, split: str) -> list[np.ndarray]:
    """Returns the differences of each sequence, for each seed that has them."""
    ranked = len(_difficulty(lab, split))
    found = []
    for seed in lab.pairs(name, lab.file.seeds):
        both = [
            lab.runs[each, seed].sequence_losses.get(split)
            for each in (name, lab.file.reference)
        ]
        losses = [each for each in both if each is not None]
        if len(losses) == 2:
            _check_equal([ranked, *map(len, losses)], split)
            found.append(np.subtract(losses[0], losses[1]))
    return found


def _check_equal(counts: Sequence[int], split: str) -> None:
    if len(set(counts)) > 1:
        raise ValueError(
            f"Runs were evaluated on different numbers of sequences of {split!r}, "
            f"{sorted(set(counts))}: evaluate all of them again."
        )
