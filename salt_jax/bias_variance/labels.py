"""Labels of an experiment's teacher, measured at students that were exported.

Dimensions: B batch, L length, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath

from salt_jax.batch import Batch
from salt_jax.bias_variance.gradients import (
    ONE_HOT,
    TEACHER,
    TRUTH,
    LabelGradients,
    truth_as_teacher,
)
from salt_jax.bias_variance.moments import MomentsOf
from salt_jax.config import Distillation, Experiment, Stage
from salt_jax.data.languages.markov import MarkovLanguage, MarkovTruth
from salt_jax.data.reading.loader import open_batches
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.held_out_language import kl_divergence, padded, truth_of
from salt_jax.model.transformer import Params, Transformer
from salt_jax.storage.export import Export
from salt_jax.telemetry.progress import Progress
from salt_jax.training.program import Program
from salt_jax.training.stage_inputs import StageInputs


def stage_with_teacher(experiment: Experiment) -> Stage:
    """Returns the first stage that has a teacher.

    Raises:
      ValueError: none has.
    """
    for stage in experiment.stages:
        if stage.distillation is not None:
            return stage
    raise ValueError(
        "No stage of this experiment has a teacher, whose labels could be measured: "
        "give the gin file of a run with distillation."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """An experiment's teacher on the mesh, and the batches that its labels are for."""

    program: Program
    inputs: StageInputs
    teacher_params: Params

    @classmethod
    def open(cls, experiment: Experiment) -> Labels:
        """Opens the data and loads the teacher.

        Raises:
          FileNotFoundError: data, a vocabulary or the teacher's export is missing.
          ValueError: no stage has a teacher, or they do not fit the experiment.
        """
        stage = stage_with_teacher(experiment)
        program = Program.on(experiment)
        program.check_memory()
        inputs = StageInputs.open(program, stage)
        return cls(
            program=program,
            inputs=inputs,
            teacher_params=inputs.load_teacher(program),
        )

    def students(self, exports: Sequence[epath.PathLike]) -> list[Export]:
        """Opens exports of students, without their arrays.

        Raises:
          FileNotFoundError: there is no export.
          ValueError: one is of another model or vocabulary, or damaged.
        """
        model = self.program.experiment.model
        vocabulary = Vocabulary.open(self.inputs.stage.data.vocabulary)
        return [Export.open_for(path, model, vocabulary) for path in exports]

    def load(self, student: Export) -> Params:
        """Returns the parameters of a student on the mesh."""
        return student.load(self.program.abstract_state.params)

    @property
    def distillation(self) -> Distillation:
        """How the stage reads its teacher."""
        assert self.inputs.stage.distillation is not None
        return self.inputs.stage.distillation

    @property
    def teacher(self) -> Transformer:
        """The teacher's model, as it reads in training."""
        return self.program.reading_teacher(self.distillation)

    @functools.cached_property
    def truth(self) -> MarkovTruth | None:
        """The truth of the language that the stage reads; None if it is unknown."""
        data = self.inputs.stage.data
        return data.truth() if isinstance(data, MarkovLanguage) else None

    @functools.cached_property
    def _gradients(self) -> tuple[list[str], Any]:
        teachers: dict[str, Any] = {TEACHER: (self.teacher.apply, self.teacher_params)}
        if self.truth is not None:
            size = self.program.experiment.model.vocab_size
            teachers[TRUTH] = truth_as_teacher(self.truth, size)
        of = LabelGradients(
            program=self.program,
            temperature=self.distillation.temperature,
            real_vocab_size=self.distillation.real_vocab_size,
        )
        return [ONE_HOT, *teachers], of.by_labels(teachers)

    def gradient_moments(self, student: Params, num_batches: int) -> dict[str, Any]:
        """Returns bias and variance of the gradient at a student, as JSON types.

        The batches follow those that the experiment's run reads, so that the student
        has seen them only if the run had read all of its data.
        """
        names, gradients = self._gradients
        found = MomentsOf(names)
        begin = self.program.experiment.total_steps
        with (
            open_batches(self.inputs.loader, begin) as batches,
            Progress("gradients", num_batches) as progress,
        ):
            for done in range(num_batches):
                found.add(gradients(student, next(batches)))
                progress.update(done + 1)
        described = found.moments().describe()
        experiment = self.program.experiment
        tokens = experiment.batches.size(begin) * experiment.seq_len
        logging.info("Gradients of %d batches of %d tokens.", num_batches, tokens)
        return described | {"tokens_per_batch": tokens}

    def distance_from_truth(self, num_batches: int) -> dict[str, float] | None:
        """Returns how far the teacher's labels are from the truth, by context.

        Means over the contexts of `num_batches` batches: KL(truth, teacher) in nats,
        and the squared Euclidean distance of both distributions. The teacher's rows of
        padding have no probability, as in distillation. None if the truth is unknown.
        """
        if self.truth is None:
            return None
        truth, model = self.truth, self.teacher
        num_real = self.distillation.real_vocab_size or model.config.vocab_size
        table_CV = padded(truth, num_real)
        everywhere = model.partitioning.sharding()

        @functools.partial(jax.jit, out_shardings=everywhere)
        def distances(params: Params, table_CV: Any, batch: Batch) -> Any:
            unembedding: Any = model.apply(params, batch)
            log_q_BLV = jax.nn.log_softmax(unembedding.logits()[..., :num_real])
            truth_BLV = truth_of(table_CV, truth, batch)
            squares_BLV = jnp.square(truth_BLV - jnp.exp(log_q_BLV))
            return {
                "kl": jnp.mean(kl_divergence(truth_BLV, log_q_BLV)),
                "squared_distance": jnp.mean(jnp.sum(squares_BLV, axis=-1)),
            }

        begin = self.program.experiment.total_steps
        with open_batches(self.inputs.loader, begin) as batches:
            found = [
                distances(self.teacher_params, table_CV, next(batches))
                for _ in range(num_batches)
            ]
        return {
            name: float(sum(float(x[name]) for x in found)) / num_batches
            for name in found[0]
        }
