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
from salt_jax.loss import padded_vocabulary
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
    batch_size: int
    seq_len: int
    validation: Validation | None = None
    initial_export: str | Start | None = None  # Parameters; None: random ones.
    seed: int = 0
    mesh: MeshShape = MeshShape()
    rules: AxisRules = AxisRules()
    num_microbatches: int = 1
    loss_chunk_tokens: int = 1024  # Tokens whose logits a device holds at once.
    z_loss: float = 0.0  # Coefficient of (log Z)^2, added to the loss in all stages.
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
        check_positive(self, "batch_size", "seq_len", "num_microbatches")
        check_positive(
            self, "save_every", "max_to_keep", "log_every", "loss_chunk_tokens"
        )
        check_z_loss(self.z_loss)
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
        if self.batch_size % self.num_microbatches:
            raise ValueError(
                f"num_microbatches={self.num_microbatches} does not divide "
                f"batch_size={self.batch_size}."
            )
        for begin_step, stage in self.timeline():
            if stage.distillation is not None:
                self._check_distillation(begin_step, stage)
            self._check_measures(begin_step, stage)

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
