"""The inputs of a stage: its batches, and its teacher if it has one."""

from __future__ import annotations

import dataclasses

from absl import logging

from salt_jax.config import Stage
from salt_jax.data.reading.loader import Loader, describe_epochs
from salt_jax.data.selecting.domains import domain_counts
from salt_jax.data.selecting.selection import stage_warnings
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.model.transformer import Params
from salt_jax.storage.export import Export
from salt_jax.symptoms.selections import starved_domain
from salt_jax.symptoms.watch import Watch
from salt_jax.training.position import Position
from salt_jax.training.program import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageInputs:
    """The inputs of a stage, opened and checked, but not yet read."""

    stage: Stage
    loader: Loader
    teacher: Export | None  # None if the stage has no teacher.

    @classmethod
    def open(
        cls, program: Program, stage: Stage, since: Position = Position()
    ) -> StageInputs:
        """Opens the inputs of a stage of `program`.

        Args:
          program: The program.
          stage: One of its stages.
          since: Where the batch sizes of the experiment took over.

        Raises:
          FileNotFoundError: the data, its vocabulary, its scores or the teacher's
            export is missing.
          ValueError: the data or the export does not fit the experiment, or a file of
            the export is damaged.
        """
        experiment, distillation = program.experiment, stage.distillation
        vocabulary = Vocabulary.open(stage.data.vocabulary)
        vocabulary.check_model(experiment.model.vocab_size)
        teacher = None
        if distillation is not None:
            path = distillation.teacher_export
            teacher = Export.open_for(path, distillation.teacher, vocabulary)
            vocabulary.check_real_size(distillation.real_vocab_size)
        loader = Loader(
            stage.data,
            batch_size=experiment.batches,
            seq_len=experiment.seq_len,
            seed=experiment.seed,
            partitioning=program.partitioning,
            skip_batches=experiment.skip_batches,
            first_row=since.rows - experiment.batches.rows(0, since.step),
        )
        return cls(stage=stage, loader=loader, teacher=teacher)

    def fingerprints(self) -> dict[str, str]:
        """Returns fingerprints by name: "data.STAGE" and "teacher.STAGE"."""
        found = {f"data.{self.stage.name}": self.loader.rows.fingerprint()}
        if self.teacher is not None:
            found[f"teacher.{self.stage.name}"] = self.teacher.fingerprint
        return found

    def starved_domains(self, watch: Watch) -> list[str]:
        """Returns a line for each selection of the stage that starves domains."""
        counts = domain_counts(self.stage.data, self.loader.rows)
        lines = (starved_domain(each, watch) for each in counts)
        return [line for line in lines if line is not None]

    def load_teacher(self, program: Program) -> Params | None:
        """Returns the teacher's parameters on the mesh; None without a teacher.

        Raises:
          ValueError: the export's arrays are damaged.
        """
        distillation = self.stage.distillation
        if self.teacher is None or distillation is None:
            return None
        logging.info("Loading the teacher from %s.", distillation.teacher_export)
        return self.teacher.load(program.abstract_teacher(distillation))

    def log_epochs(self, num_rows: int, *, batch_size: int) -> None:
        """Logs how many epochs `num_rows` rows are, and warns of a narrow selection."""
        name, rows = self.stage.name, self.loader.rows
        selected = getattr(self.stage.data, "selection", None) is not None
        reading = describe_epochs(num_rows, rows, selected=selected)
        logging.info("Stage %r %s.", name, reading)
        if not selected or rows.rows_per_epoch is None:
            return
        for line in stage_warnings(
            rows.rows_per_epoch, num_read=num_rows, batch_size=batch_size
        ):
            logging.warning("Stage %r: %s", name, line)
