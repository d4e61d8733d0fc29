"""Looks at each record of a run, and warns once of each symptom in each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from salt_jax.symptoms.detectors import DETECTORS
from salt_jax.symptoms.history import Curve, History, Span
from salt_jax.symptoms.watch import Watch

FIELD = "warning_"  # A record's fields of warnings begin so; the rest is the kind.
_ALL_UP_TO = 100  # Records of a stage; of more, only some are looked at.
_GROWTH = 1.02


class Lookout:
    """The warnings of a run so far, and the history that the next ones need.

    Records are the same on all processes, so warnings are.
    """

    def __init__(
        self,
        watch: Watch,
        stages: Sequence[Span],
        *,
        baseline: Curve | None = None,
        records: Sequence[Mapping[str, Any]] = (),
    ):
        """Looks back at the records of the checkpoint that is resumed.

        Args:
          watch: The thresholds.
          stages: The stages of the run, in order.
          baseline: The held-out losses of BASELINE, if one is named.
          records: The records of the run so far.
        """
        self._watch, self._history = watch, History(stages, baseline)
        self._warned: set[tuple[str, str]] = set()  # Kinds and stages.
        self._expected: dict[str, dict[str, str]] = {}  # Lines by stage and kind.
        self._next_look: dict[str, float] = {}
        for record in records:
            self._history.add(record)
            kinds = [x.removeprefix(FIELD) for x in record if x.startswith(FIELD)]
            self._warned |= {(kind, self._history.stage.name) for kind in kinds}

    def expect(self, stage: str, kind: str, line: str) -> None:
        """Warns of what was found before the first step of a stage.

        The record of its first step will have it too.
        """
        if (kind, stage) in self._warned:
            return
        self._warn(stage, kind, line)
        self._expected.setdefault(stage, {})[kind] = line

    def see(self, record: Mapping[str, Any]) -> dict[str, str]:
        """Returns the warnings that belong into a record, by field, and logs them."""
        self._history.add(record)
        stage = self._history.stage.name
        found = self._expected.pop(stage, {}) if "stage" in record else {}
        if self._is_time(record, stage):
            looks: dict[str, Any] = {
                name: lambda history, look=look: look(history, self._watch)
                for name, look in DETECTORS.items()
            }
            looks |= {detector.name: detector.look for detector in self._watch.also}
            for kind, look in looks.items():
                line = None if (kind, stage) in self._warned else look(self._history)
                if line is not None:
                    self._warn(stage, kind, line)
                    found[kind] = line
        return {f"{FIELD}{kind}": line for kind, line in found.items()}

    def _warn(self, stage: str, kind: str, line: str) -> None:
        self._warned.add((kind, stage))
        logging.warning(
            "Stage %r, step %d: %s. What to do: %s in docs/warnings.md.",
            *(stage, self._history.step, line, kind),
        )

    def _is_time(self, record: Mapping[str, Any], stage: str) -> bool:
        """Returns whether to look now: the longer the history, the more rarely."""
        count = self._history.count()
        if "stage" not in record or count <= _ALL_UP_TO:
            return True
        if count < self._next_look.get(stage, 0.0):
            return False
        self._next_look[stage] = count * _GROWTH
        return True
