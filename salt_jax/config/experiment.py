"""An experiment: stages, and what holds for all of them."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence

from salt_jax.config.checks import check_positive
from salt_jax.config.stage import Stage
from salt_jax.config.validation import Validation
from salt_jax.data.reading import batch_ranges
from salt_jax.data.reading.answers import Answers
from salt_jax.data.reading.batch_sizes import (
    MOST_SIZES,
    BatchSizes,
    Ramp,
    fewest_microbatches,
)
from salt_jax.loss import kernel_choice, padded_vocabulary
from salt_jax.loss.losses import check_z_loss
from salt_jax.mesh.partitioning import AxisRules, MeshShape
from salt_jax.model.config import TransformerConfig
from salt_jax.optim.guard import UpdateGuard
from salt_jax.optim.moving_average import MovingAverage
from salt_jax.optim.optimizer import Adafactor, AdamW
from salt_jax.storage.starts import Start
from salt_jax.symptoms.watch import Watch
from salt_jax.transition import checking


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that determines what a training run computes, and how it is run.

    Which fields may change when a run is resumed is said in `identity`.
    """

    model: TransformerConfig
    stages: Sequence[Stage]
    optimizer: AdamW | Adafactor
    batch_size: int | BatchSizes  # Rows; what is no integer is kept as a `Ramp`.
    seq_len: int
    validation: Validation | None = None
    initial_export: str | Start | None = None  # Parameters; None: random ones.
    seed: int = 0
    mesh: MeshShape = MeshShape()
    rules: AxisRules = AxisRules()
    num_microbatches: int = 1  # Of the largest batch; smaller ones have fewer.
    loss_chunk_tokens: int = 1024  # Tokens whose logits a device holds at once.
    z_loss: float = 0.0  # Coefficient of (log Z)^2, added to the loss in all stages.
    loss_kernel: str = "auto"  # "auto", "xla" or "pallas": what computes the loss.
    save_every: int = 1000
    save_every_minutes: float | None = None  # Saves sooner if steps are slow.
    max_to_keep: int = 2
    keep_steps: Sequence[int] = ()  # Saved and never deleted: an early scorer's.
    log_every: int = 100
    guard: UpdateGuard | None = None  # Drops updates that are out of bounds.
    watch: Watch | None = Watch()  # Warns of what goes wrong; None: of nothing.
    average: MovingAverage | None = None  # Of the parameters, evaluated beside them.
    # Batches whose steps make no update: ranges (FIRST, END) of indices, END exclusive.
    skip_batches: Sequence[tuple[int, int]] = ()

    def timeline(
        self, ended: Mapping[str, int] = types.MappingProxyType({})
    ) -> Iterator[tuple[int, Stage]]:
        """Yields each stage with the step at which it begins.

        Args:
          ended: The end of each stage that its rule has ended, by name.
        """
        begin_step = 0
        for stage in self.stages:
            if stage.name in ended:
                stage = dataclasses.replace(stage, end_step=ended[stage.name])
            yield begin_step, stage
            begin_step = stage.end_step

    @property
    def batches(self) -> Ramp:
        """The sizes of the batches."""
        return Ramp.of(self.batch_size, self.total_steps)

    @property
    def largest_batch(self) -> int:
        """The number of rows of the largest batch."""
        return self.batches.distinct(0, self.total_steps)[-1]

    def microbatches(self, rows: int) -> int:
        """Returns the number of microbatches of a batch of `rows`.

        It is the fewest that are no larger than those of the largest batch, so that
        memory does not depend on the size of the batch.
        """
        return fewest_microbatches(rows, self.largest_batch, self.num_microbatches)

    def divides(self, num_microbatches: int, shards: int) -> bool:
        """Returns whether batches divide into microbatches on so many shards."""
        largest = self.largest_batch
        return all(
            rows % (shards * fewest_microbatches(rows, largest, num_microbatches)) == 0
            for rows in self.batches.distinct(0, self.total_steps)
        )

    def sizes_of(self, stage_name: str, from_step: int = 0) -> list[int]:
        """Returns the batch sizes that a stage can have, in increasing order.

        Args:
          stage_name: The stage.
          from_step: The steps that are made already.
        """
        earliest, may_begin_early = 0, False
        for begin_step, stage in self.timeline():
            # A stage begins as early as the one before it can be left.
            earliest = earliest if may_begin_early else begin_step
            may_begin_early = bool(stage.leave.reads)
            if stage.name == stage_name:
                begin = max(earliest, from_step)
                return self.batches.distinct(begin, stage.end_step)
        raise KeyError(stage_name)

    @property
    def total_steps(self) -> int:
        """The step at which the last stage ends."""
        return self.stages[-1].end_step

    @property
    def measures(self) -> bool:
        """Whether its validations decide what is computed after them."""
        return any(stage.reads for stage in self.stages)

    @property
    def weighs_by_measures(self) -> bool:
        """Whether a teacher's weight depends on validations."""
        return any(stage.measured_weight for stage in self.stages)

    def __post_init__(self):
        object.__setattr__(self, "stages", _stages_with_steps(self.stages))
        check_positive(self, "seq_len", "num_microbatches")
        # So experiments with the same sizes are the same, whatever names these have.
        object.__setattr__(self, "batch_size", self.batches.value)
        self._check_batches()
        check_positive(
            self, "save_every", "max_to_keep", "log_every", "loss_chunk_tokens"
        )
        check_z_loss(self.z_loss)
        kernel_choice.check(self.loss_kernel)
        minutes = self.save_every_minutes
        if minutes is not None and minutes <= 0:
            raise ValueError(f"save_every_minutes must be positive, got {minutes}.")
        if not isinstance(self.initial_export, str | Start | None):
            raise ValueError(
                "initial_export is the path of an export, a start such as Stacked, or "
                f"None, got {self.initial_export!r}."
            )
        batch_ranges.check(self.skip_batches, self.total_steps)
        if self.average is not None and self.average.begin_step >= self.total_steps:
            raise ValueError(
                f"The average begins after step {self.average.begin_step}, and the "
                f"last step is {self.total_steps}: let it begin earlier."
            )
        for begin_step, stage in self.timeline():
            if stage.distillation is not None:
                self._check_distillation(begin_step, stage)
            self._check_measures(begin_step, stage)

    def _check_batches(self) -> None:
        sizes = self.batches.distinct(0, self.total_steps)
        if len(sizes) > MOST_SIZES:
            raise ValueError(
                f"batch_size has {len(sizes)} sizes, from {sizes[0]} to {sizes[-1]}: "
                f"each is compiled, so there may be {MOST_SIZES} at most."
            )
        for rows in sizes:
            if rows % self.microbatches(rows):
                raise ValueError(
                    f"num_microbatches={self.microbatches(rows)} does not divide "
                    f"batch_size={rows}."
                )

    def _check_measures(self, begin_step: int, stage: Stage) -> None:
        validation = self.validation
        every = validation.every if validation else self.total_steps
        first = (begin_step // every + 1) * every
        checking.check_stage(
            stage.name,
            stage.reads,
            leaves=bool(stage.leave.reads),
            has_teacher=stage.distillation is not None,
            has_text=validation is not None
            and not isinstance(validation.data, Answers),
            # What is no integer is refused by name when gin has built everything.
            validations=range(int(first), int(stage.end_step), int(every)),
            is_last=stage is self.stages[-1],
        )

    def _check_distillation(self, begin_step: int, stage: Stage) -> None:
        distillation = stage.distillation
        assert distillation is not None
        padded_vocabulary.check(
            self.model.vocab_size,
            distillation.teacher.vocab_size,
            distillation.real_vocab_size,
        )
        steps = begin_step, stage.end_step - 1
        first, last = (float(distillation.kd_weight(step)) for step in steps)
        if not (0.0 <= first <= 1.0 and 0.0 < last <= 1.0):
            raise ValueError(
                f"Stage {stage.name!r}: kd_weight is {first} at step {begin_step + 1} "
                f"and {last} at step {stage.end_step}. It must be from 0 to 1, and "
                "above 0 at the end: end the stage earlier, or set its distillation to "
                "None."
            )


def _stages_with_steps(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Returns `stages` less those without steps, once their ends and names fit."""
    ends = [stage.end_step for stage in stages]
    if ends != sorted(ends) or min(ends, default=0) < 0:
        raise ValueError(f"Stages must end in increasing order, got {ends}.")
    kept: list[Stage] = []
    for stage in stages:
        before = kept[-1] if kept else None
        # What follows a leave rule has steps if the rule ends its stage.
        if stage.end_step > (before.end_step if before else 0) or (
            before is not None and before.leave.reads
        ):
            kept.append(stage)
    if not kept:
        raise ValueError("An experiment needs at least one stage with steps.")
    names = [stage.name for stage in kept]
    if len(set(names)) < len(names):
        raise ValueError(f"Stages need names of their own, got {names}.")
    return tuple(kept)
