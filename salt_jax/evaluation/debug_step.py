"""Replays one step of a run and shows what it was made of; nothing is written.

Dimensions: B batch, L length.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from salt_jax.batch import Batch
from salt_jax.config import Experiment, Stage
from salt_jax.data.reading.loader import open_batches
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluation.eval_step import token_reader
from salt_jax.model.transformer import Params
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry.metric_writer import read_metrics
from salt_jax.telemetry.run_files import METRICS_FILE
from salt_jax.training import resumption
from salt_jax.training.compiled_updates import compile_updates
from salt_jax.training.norms import KINDS, StepNorms, step_norms
from salt_jax.training.position import Position
from salt_jax.training.program import Program
from salt_jax.training.stage_ends import StageEnds
from salt_jax.training.stage_inputs import StageInputs
from salt_jax.training.train_step import TrainState, leave_out
from salt_jax.transition.decision import decisions_in
from salt_jax.transition.measures import VAL_LOSS

_MOST_ROWS = 20  # Shown, the worst first.
_IDS, _CHARACTERS = 12, 60  # Of a row.


def debug_step(
    experiment: Experiment,
    workdir: epath.PathLike,
    step: int,
    *,
    accepted_changes: Sequence[str] = (),
) -> str:
    """Returns the norms of `step` by layer and its losses by row, as text.

    The run is replayed from the nearest checkpoint before the step, or from its start.

    Args:
      experiment: The run's experiment.
      workdir: The run directory.
      step: The step, counted from 1. Its batch is read even if it is left out.
      accepted_changes: As for `train`.

    Raises:
      FileNotFoundError: data or an export is missing.
      ValueError: the experiment has no such step, or is not the run's; a checkpoint or
        an export is damaged.
    """
    if not 1 <= step <= experiment.total_steps:
        raise ValueError(
            f"--debug_step={step}: the experiment has steps 1 to "
            f"{experiment.total_steps}."
        )
    program = Program.on(experiment)
    saved = SavedCheckpoints(epath.Path(workdir) / "checkpoints")
    begin = max((x for x in saved.all_steps() if x < step), default=None)
    meta = {} if begin is None else saved.read_meta(begin)
    resumption.check_experiment(experiment, meta, accepted_changes)
    resumption.check_skipped(experiment, meta, begin or 0, accepted_changes)
    state = resumption.restore(program, saved, meta, begin)
    measured = _validations(epath.Path(workdir))
    return _Replay(program, meta, accepted_changes, step, measured).run(
        program.fresh_state() if state is None else state
    )


def _validations(workdir: epath.Path) -> dict[int, Mapping[str, Any]]:
    """Returns the records of the validations of a run, by step."""
    if not (workdir / METRICS_FILE).exists():
        return {}
    return {r["step"]: r for r in read_metrics(workdir) if VAL_LOSS in r}


@dataclasses.dataclass(frozen=True)
class _Replay:
    program: Program
    meta: dict[str, Any]  # Of the checkpoint.
    accepted: Sequence[str]
    step: int
    validations: Mapping[int, Mapping[str, Any]]  # What they measured, by step.

    @functools.cached_property
    def ends(self) -> StageEnds:
        """What is known at the step that is being replayed."""
        return StageEnds.of(self.meta)

    def run(self, state: TrainState) -> str:
        decided = self.ends.decided | decisions_in(self.validations.values())
        ended = {name: decision.step for name, decision in decided.items()}
        for stage in self.program.stages_from(int(state.step), ended):
            inputs = StageInputs.open(self.program, stage, Position.of(self.meta))
            resumption.check_inputs(inputs.fingerprints(), self.meta, self.accepted)
            teacher = inputs.load_teacher(self.program)
            end = min(stage.end_step, self.step - 1)
            self.ends.begin(stage)
            state = self.ends.weighed(stage, state)
            state = self._advance(inputs, state, teacher, end)
            if self.step <= stage.end_step:
                return "\n".join(self._describe(inputs, state, teacher))
        raise AssertionError(f"No stage has step {self.step}.")

    def _advance(
        self, inputs: StageInputs, state: TrainState, teacher: Params | None, end: int
    ) -> TrainState:
        """Makes the steps up to `end` again."""
        begin, loader = int(state.step), inputs.loader
        if begin >= end:
            return state
        logging.info("Replaying steps %d to %d.", begin + 1, end)
        (update,) = compile_updates(self.program, [inputs.stage], begin)
        with open_batches(loader, begin) as batches:
            for index in range(begin, end):
                if loader.first_read(index) == index:
                    state, _ = update(state, teacher, next(batches))
                else:
                    state = leave_out(state)
                if (measured := self.validations.get(index + 1)) is not None:
                    self.ends.validated(index + 1, inputs.stage, measured)
                    state = self.ends.weighed(inputs.stage, state)
        return state

    def _describe(
        self, inputs: StageInputs, state: TrainState, teacher: Params | None
    ) -> Iterator[str]:
        stage, index = inputs.stage, self.step - 1
        batch = inputs.loader.device_batch(index)
        update = self.program.update(stage, batch.tokens_BL.shape[0])
        norms = step_norms(update, state, teacher, batch)
        yield f"Step {self.step} of stage {stage.name!r}, on batch {index}."
        yield ", ".join(
            f"{name} {float(value.mean() if hasattr(value, 'mean') else value):.6g}"
            for name, value in norms.metrics.items()
        )
        yield from _norms(norms)
        losses = self._losses(stage, state, teacher, batch)
        yield from _rows(inputs, index, losses)

    def _losses(
        self, stage: Stage, state: TrainState, teacher: Params | None, batch: Batch
    ) -> dict[str, np.ndarray]:
        """Returns the mean loss of each row, float32 [B], of each model."""
        update, chunk = self.program.update(stage), self.program.experiment
        models: dict[str, Any] = {"ce": (update.student, state.params)}
        if update.teacher is not None:
            models["teacher_ce"] = (update.teacher, teacher)
        everywhere = self.program.partitioning.sharding()
        gather = jax.jit(lambda x: x, out_shardings=everywhere)
        weights_BL = np.asarray(gather(batch.weights_BL))
        counts_B = np.maximum(weights_BL.sum(axis=1), 1.0)
        found = {"targets": weights_BL.sum(axis=1)}
        for name, (model, params) in models.items():
            read = token_reader(model, chunk.loss_chunk_tokens)
            ce_BL = np.asarray(read(params, batch).ce_BL)
            found[name] = (ce_BL * weights_BL).sum(axis=1) / counts_B
        return found


def _norms(norms: StepNorms) -> Iterator[str]:
    width = max(map(len, norms.by_layer))
    yield ""
    yield "  ".join([f"{'norm of':<{width}}", *(f"{kind:>12}" for kind in KINDS)])
    for layer, found in norms.by_layer.items():
        numbers = (f"{found[kind]:>12.4g}" for kind in KINDS)
        yield "  ".join([f"{layer:<{width}}", *numbers])
    if norms.not_finite:
        listed = ", ".join(f"{name} ({n:,})" for name, n in norms.not_finite.items())
        yield f"The gradient is not finite in {listed}."


def _rows(
    inputs: StageInputs, index: int, losses: dict[str, np.ndarray]
) -> Iterator[str]:
    """Yields a table of the rows of a batch, the worst first."""
    loader = inputs.loader
    numbers = loader.row_numbers(index)
    ids_of = getattr(loader.rows, "ids", None)
    ids = numbers if ids_of is None else ids_of(numbers)
    host = loader.host_batch(index)
    vocabulary = Vocabulary.open(inputs.stage.data.vocabulary)
    badness = np.nan_to_num(losses["ce"], nan=math.inf, posinf=math.inf)
    order = np.argsort(-badness, kind="stable")
    yield ""
    yield f"{len(order)} rows, the largest loss first; those of not-a-number lead."
    what = "row" if ids_of is None else "sequence"
    yield "  ".join(
        ["row", f"{what:>10}", *(f"{name:>10}" for name in losses), "tokens and text"]
    )
    for row in order[:_MOST_ROWS]:
        values = (f"{losses[name][row]:>10.4g}" for name in losses)
        text = _text(vocabulary, np.asarray(host.targets_BL[row]))
        yield "  ".join([f"{row:>3}", f"{ids[row]:>10}", *values, text])


def _text(vocabulary: Vocabulary, targets_L: np.ndarray) -> str:
    first = " ".join(map(str, targets_L[:_IDS]))
    try:
        text = vocabulary.decode(targets_L)
    except Exception as error:  # Ids outside of the vocabulary, perhaps.
        return f"[{first} ...] {type(error).__name__}: {error}"
    return f"[{first} ...] {text[:_CHARACTERS]!r}"
