"""The inputs of a run: what its stages read, and what it is measured on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from salt_jax.config import Stage
from salt_jax.evaluation.beside_teacher import BesideTeacher
from salt_jax.evaluation.held_out_kinds import held_out_of
from salt_jax.training import resumption
from salt_jax.training.loop import Measure
from salt_jax.training.program import Program
from salt_jax.training.run_start import RunStart
from salt_jax.training.stage_inputs import StageInputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunInputs:
    """The inputs of all stages that are left, and the held-out measurements."""

    stages: list[StageInputs]
    fingerprints: dict[str, str]
    measure: Measure | None
    beside: BesideTeacher | None

    @property
    def left(self) -> list[Stage]:
        """The stages that are left."""
        return [one.stage for one in self.stages]

    @classmethod
    def open(
        cls, program: Program, start: RunStart, accepted: Sequence[str]
    ) -> RunInputs:
        """Opens all before the first step: a missing file is reported at once.

        Args:
          program: What is computed.
          start: Where the run starts.
          accepted: Names of inputs that may differ from those that it has read.

        Raises:
          FileNotFoundError: data, a vocabulary or an export is missing.
          ValueError: one is damaged, does not fit, or is another than before.
        """
        experiment = program.experiment
        stages = []
        for begin_step, stage in experiment.timeline(start.ends.ended):
            if stage.end_step <= start.step:
                continue
            opened = StageInputs.open(program, stage, start.position)
            num_rows = experiment.batches.rows(begin_step, stage.end_step)
            largest = experiment.sizes_of(stage.name)[-1]
            opened.log_epochs(num_rows, batch_size=largest)
            stages.append(opened)
        fingerprints = {k: v for one in stages for k, v in one.fingerprints().items()}
        if not start.meta and program.initial is not None:
            # A run that is resumed has no more need of it, so it may be gone by then.
            fingerprints["initial_export"] = program.initial.fingerprint
        measure = beside = None
        if experiment.validation is not None:
            held_out = held_out_of(program)
            measure = held_out.open()
            if any(one.teacher for one in stages):
                beside = BesideTeacher(program, held_out.rows())
        if beside is not None and experiment.measures:
            fingerprints["validation"] = beside.rows.fingerprint
        resumption.check_inputs(fingerprints, start.meta, accepted)
        return cls(
            stages=stages, fingerprints=fingerprints, measure=measure, beside=beside
        )
