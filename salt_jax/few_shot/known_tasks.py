"""Facts about lm-eval's tasks that their files do not contain."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnownTask:
    """Facts about one task."""

    chance: float | None = None  # The accuracy of guessing.
    percent: frozenset[str] = frozenset()  # The metrics on a scale from 0 to 100.
    # The new tokens that the task's code requests; None: those in the task's file.
    writes: int | None = None


NOTHING = KnownTask()
_HALF = KnownTask(chance=0.5)
_QUARTER = KnownTask(chance=0.25)
_SQUAD = ("exact", "f1")
KNOWN: Mapping[str, KnownTask] = {
    **dict.fromkeys(
        ("arc_challenge", "arc_easy", "hellaswag", "openbookqa", "race"), _QUARTER
    ),
    **dict.fromkeys(
        ("boolq", "copa", "multirc", "piqa", "sglue_rte", "storycloze_2016"), _HALF
    ),
    **dict.fromkeys(("wic", "winogrande", "wsc"), _HALF),
    "squadv2": KnownTask(
        percent=frozenset(
            f"{part}{name}"
            for part in ("", "HasAns_", "NoAns_", "best_")
            for name in _SQUAD
        ),
        writes=256,
    ),
    **dict.fromkeys(
        ("scrolls_contractnli", "scrolls_quality"), KnownTask(percent=frozenset({"em"}))
    ),
    **dict.fromkeys(
        ("scrolls_narrativeqa", "scrolls_qasper"), KnownTask(percent=frozenset({"f1"}))
    ),
}
