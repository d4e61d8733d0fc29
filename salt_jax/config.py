"""Experiments and scorings as frozen values, which refuse contradictions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from salt_jax.data.languages.markov import MarkovLanguage
from salt_jax.data.reading import batch_ranges
from salt_jax.data.reading.answers import Answers
from salt_jax.data.reading.prepared_text import PreparedText, StageData
from salt_jax.files.reading import is_plain_name
from salt_jax.loss import gates, padded_vocabulary
from salt_jax.mesh.partitioning import AxisRules, MeshShape
from salt_jax.model.config import TransformerConfig
from salt_jax.model.quantized import HELD_DTYPES
from salt_jax.optim.guard import UpdateGuard
from salt_jax.optim.moving_average import MovingAverage
from salt_jax.optim.optimizer import Adafactor, AdamW
from salt_jax.optim.schedules import Schedule
from salt_jax.storage.starts import Start
from salt_jax.symptoms.watch import Watch
from salt_jax.transition import checking
from salt_jax.transition.leaving import AtEnd, LeaveRule
from salt_jax.transition.weighing import MeasuredWeight


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation:
    """Distillation from a frozen small teacher, blended into the loss of a stage."""

    teacher: TransformerConfig
    teacher_export: str
    kd_weight: Schedule | MeasuredWeight
    temperature: float = 1.0  # Divides the teacher's logits.
    tokens: gates.Gate = gates.EveryToken()  # Which are distilled, and how strongly.
    real_vocab_size: int | None = None  # Tokens from here on are padding: masked in KD.
    teacher_dtype: str = "bfloat16"  # The dtype of its parameters in memory.
    teacher_rules: AxisRules = AxisRules()

    def __post_init__(self):
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}.")
        gates.check(self.tokens)
        _check_held_dtype(self, "teacher_dtype")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """Consecutive steps with one loss and one data source; without steps, left out."""

    name: str
    end_step: int  # Exclusive, counted from the start of the experiment.
    data: StageData
    distillation: Distillation | None = None
    leave: LeaveRule = AtEnd()  # It may end the stage before `end_step`.

    def __post_init__(self):
        if not isinstance(self.name, str) or not is_plain_name(self.name):
            raise ValueError(
                f"The name of a stage names files too: it has no slash, got "
                f"{self.name!r}."
            )
        if not isinstance(self.leave, LeaveRule):
            raise ValueError(
                f"Stage {self.name!r}: leave must be a rule with reads and reason, got "
                f"{self.leave!r}."
            )

    @property
    def measured_weight(self) -> MeasuredWeight | None:
        """The `kd_weight`, if it depends on what was measured."""
        weight = self.distillation and self.distillation.kd_weight
        return weight if isinstance(weight, MeasuredWeight) else None

    @property
    def reads(self) -> Sequence[str]:
        """The held-out measures that the leave rule and the weight read."""
        weight = self.measured_weight
        return sorted({*self.leave.reads, *(weight.reads if weight else ())})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answering:
    """Settings for a fine-tuned student's answers to held-out questions."""

    max_new_tokens: int  # Tokens of an answer; longer answers are truncated.
    num_questions: int  # Questions asked while training, the same ones every time.
    splits: Sequence[str] = ("val", "test")  # Asked in full by `evaluate`.
    result_after: str | None = None  # Exact match and F1 compare the text after it.

    def __post_init__(self):
        _check_positive(self, "max_new_tokens", "num_questions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """Measurements on held-out data while training: the loss, and answers."""

    data: PreparedText | Answers | MarkovLanguage
    every: int  # Steps between validations; the last step has one too.
    num_sequences: int  # Rows to read: the first of `data`, the same every time.
    answering: Answering | None = None  # Needs `data` to be Answers.

    def __post_init__(self):
        _check_positive(self, "every", "num_sequences")
        if self.answering is not None and not isinstance(self.data, Answers):
            kind = type(self.data).__name__
            raise ValueError(f"answering needs data to be Answers, got a {kind}.")


# Fields that may change when a run is resumed; `skip_batches`, for later batches only.
OPERATIONAL_FIELDS = (
    *("keep_steps", "log_every", "max_to_keep", "mesh"),
    *("rules", "save_every", "save_every_minutes", "skip_batches", "validation"),
    "watch",
)
# The same within models, distillations and data.
_OPERATIONAL_WITHIN = ("attention", "limits", "teacher_rules")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that determines what a training run computes."""

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
        ends = [stage.end_step for stage in self.stages]
        if ends != sorted(ends) or min(ends, default=0) < 0:
            raise ValueError(f"Stages must end in increasing order, got {ends}.")
        stages: list[Stage] = []
        for stage in self.stages:
            before = stages[-1] if stages else None
            # What follows a leave rule has steps if the rule ends its stage.
            if stage.end_step > (before.end_step if before else 0) or (
                before is not None and before.leave.reads
            ):
                stages.append(stage)
        object.__setattr__(self, "stages", tuple(stages))
        if not stages:
            raise ValueError("An experiment needs at least one stage with steps.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"Stages need names of their own, got {names}.")
        _check_positive(self, "batch_size", "seq_len", "num_microbatches")
        _check_positive(
            self, "save_every", "max_to_keep", "log_every", "loss_chunk_tokens"
        )
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scoring:
    """Scoring a corpus with a small model, to find what is hard yet learnable."""

    scorer: TransformerConfig
    scorer_export: str
    data: PreparedText
    seq_len: int
    output: str
    ks: Sequence[int] = (1, 10, 50, 100)
    pool: int | None = None  # The number of first sequences to score; None: all.
    batch_size: int = 64  # Sequences per process.
    sequences_per_shard: int = 4096
    mesh: MeshShape = MeshShape()
    rules: AxisRules = AxisRules()
    scorer_dtype: str = "bfloat16"
    chunk_tokens: int = 1024

    def __post_init__(self):
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must be positive ranks, got {tuple(self.ks)}.")
        if self.pool is not None:
            _check_positive(self, "pool")
        _check_positive(self, "seq_len", "batch_size", "sequences_per_shard")
        _check_positive(self, "chunk_tokens")
        _check_held_dtype(self, "scorer_dtype")


def _check_positive(value: Any, *names: str) -> None:
    for name in names:
        if getattr(value, name) < 1:
            raise ValueError(f"{name} must be positive, got {getattr(value, name)}.")


def _check_held_dtype(value: Any, name: str) -> None:
    dtype = getattr(value, name)
    if dtype not in HELD_DTYPES:
        raise ValueError(f"{name}={dtype!r} is not one of {', '.join(HELD_DTYPES)}.")


def as_json(value: Any) -> Any:
    """Returns a config as JSON types; "type" holds the name of a dataclass."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: as_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
        return {"type": type(value).__name__} | fields
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return value


def fingerprint(experiment: Experiment) -> str:
    """Returns a digest of the fields that determine the numbers of a run."""
    fields = without_operational(as_json(experiment), measures=experiment.measures)
    text = json.dumps(fields, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_operational(
    experiment: dict[str, Any], *, measures: bool = False
) -> dict[str, Any]:
    """Returns an experiment's JSON without the fields that change no result.

    They are `OPERATIONAL_FIELDS` and, inside models and teachers, the attention kernel
    and the teacher's rules, and inside data the limits of its files. If it `measures`,
    its validation is kept.
    """
    kept = {"validation"} if measures else set()
    left_out = {*OPERATIONAL_FIELDS} - kept

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if k not in _OPERATIONAL_WITHIN}
            return {name: strip(inner) for name, inner in kept.items()}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return {k: strip(v) for k, v in experiment.items() if k not in left_out}
