"""Where a teacher is wrong and confident, by the difficulty of the text.

Dimensions: N rows, L length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

THIRDS = ("easy", "middle", "hard")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows:
    """How the teacher met the targets of some rows."""

    ce_NL: np.ndarray  # Its cross-entropy [nats].
    rank_NL: np.ndarray  # The number of tokens that it finds likelier.
    entropy_NL: np.ndarray  # Of its distribution [nats].
    weights_NL: np.ndarray  # 0 for padding.

    @property
    def is_wrong(self) -> np.ndarray:
        """A mask [N, L]: targets that are not the teacher's likeliest token."""
        return (self.rank_NL > 0) & (self.weights_NL > 0)

    def is_misled(self, confident_below: float) -> np.ndarray:
        """A mask [N, L]: wrong targets at which the teacher's entropy is low."""
        return self.is_wrong & (self.entropy_NL < confident_below)

    def thirds(self) -> list[np.ndarray]:
        """Returns masks [N] of the rows with the lowest to the highest mean loss."""
        sums_N = np.sum(self.ce_NL * self.weights_NL, axis=1)
        means_N = sums_N / np.maximum(self.weights_NL.sum(axis=1), 1)
        place_N = np.empty(len(means_N), int)
        place_N[np.argsort(means_N, kind="stable")] = np.arange(len(means_N))
        return [place_N * 3 // len(means_N) == third for third in range(3)]


def by_difficulty(
    teacher: Rows, students: Mapping[str, np.ndarray], confident_below: float
) -> list[dict[str, Any]]:
    """Returns one row of numbers for each third of the rows, and one for all.

    Args:
      teacher: What the teacher says of the rows.
      students: The cross-entropy [N, L] of each student on the same rows, by name.
      confident_below: The entropy [nats] below which the teacher is confident.
    """
    counted = teacher.weights_NL > 0
    misled = teacher.is_misled(confident_below)
    groups = [*zip(THIRDS, teacher.thirds(), strict=True)]
    groups.append(("all", np.ones(len(counted), bool)))
    return [
        _row(name, teacher, students, counted & of_N[:, None], misled)
        for name, of_N in groups
    ]


def _row(
    name: str,
    teacher: Rows,
    students: Mapping[str, np.ndarray],
    of: np.ndarray,
    misled: np.ndarray,
) -> dict[str, Any]:
    here = of & misled
    return {
        "rows": name,
        "targets": int(of.sum()),
        "teacher_loss": _mean(teacher.ce_NL, of),
        "wrong": _mean(teacher.is_wrong, of),
        "wrong_and_confident": _mean(misled, of),
        "teacher_loss_there": _mean(teacher.ce_NL, here),
        # The share of the teacher's loss that these targets make up.
        "share_of_teacher_loss": float(
            teacher.ce_NL[here].sum() / max(teacher.ce_NL[of].sum(), 1e-12)
        ),
        "students": {
            student: {"loss": _mean(ce_NL, of), "loss_there": _mean(ce_NL, here)}
            for student, ce_NL in students.items()
        },
    }


def _mean(values: np.ndarray, of: np.ndarray) -> float | None:
    return float(np.mean(values[of])) if of.any() else None
