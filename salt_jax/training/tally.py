"""What a run reads, computes and takes, counted as it happens."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from salt_jax.config import Experiment, Stage
from salt_jax.data.prepared.readers import BYTES_READ
from salt_jax.files.bill import Bill, read_bill
from salt_jax.model.config import TransformerConfig
from salt_jax.model.flops import forward_flops, training_bill
from salt_jax.telemetry.time_sheet import TimeSheet
from salt_jax.training.position import Position
from salt_jax.training.program import Program

EVALUATION, RECOMPUTATION = "evaluation", "recomputation"
_PARTS = ("student", RECOMPUTATION, "teacher", "loss", EVALUATION)


class Tally:
    """Counts the rows, tokens, FLOPs, bytes and chip-seconds of a run.

    They add up over all attempts. Steps since the checkpoint that is resumed are made
    again: their time counts twice, as lost, everything else once.
    """

    def __init__(
        self,
        experiment: Experiment,
        meta: Mapping[str, Any],
        *,
        devices: Sequence[jax.Device],
        times: TimeSheet,
        lost_devices: int | None = None,
        held_out_tokens: Mapping[TransformerConfig, int] | None = None,
        workdir: epath.Path | None = None,
    ):
        """Goes on from a checkpoint.

        Args:
          experiment: What is run from here on.
          meta: The checkpoint's `meta`; empty without one.
          devices: The devices of the mesh, all of one kind.
          times: The time sheet of the run.
          lost_devices: The devices of the attempt before; None: as many as now.
          held_out_tokens: The tokens that each model has read of held-out data since
            this process began. It grows.
          workdir: Where `write_bill` writes.
        """
        self._experiment, self._times = experiment, times
        self._workdir = workdir
        self.position = Position.of(meta)
        before = meta.get("bill", {})
        if meta and not before:
            logging.warning(
                "The checkpoint has no bill: it is of an older salt_jax. Rows, FLOPs "
                "by part, bytes and chip-seconds count from here on."
            )
        self._devices, self._kind = len(devices), devices[0].device_kind
        lost = times.newly_lost * (lost_devices or self._devices)
        self._chip_seconds = before.get("chip_seconds", 0.0) + lost
        self._rows = before.get("rows", 0)
        self._flops = collections.Counter(before.get("flops", {}))
        self._bytes = before.get("bytes_read", 0)
        self._bytes_then = BYTES_READ.total
        self._held_out = {} if held_out_tokens is None else held_out_tokens
        self._per_token: dict[str, dict[str, int]] = {}  # FLOPs by stage and part.

    @classmethod
    def of(
        cls,
        program: Program,
        meta: Mapping[str, Any],
        times: TimeSheet,
        workdir: epath.Path,
    ) -> Tally:
        """Returns the tally of a run in `workdir` that goes on from `meta`.

        Raises:
          ValueError: the bill of an earlier attempt is damaged.
        """
        before = read_bill(workdir)
        return cls(
            program.experiment,
            meta,
            devices=program.devices,
            times=times,
            lost_devices=None if before is None else before.devices,
            held_out_tokens=program.held_out_tokens,
            workdir=workdir,
        )

    def step(self, step: int, stage: Stage, *, is_read: bool) -> None:
        """Counts a step of `stage`; its batch is not read if it is left out."""
        rows, at = self._experiment.batches.size(step - 1), self.position
        tokens = rows * self._experiment.seq_len if is_read else 0
        parts = self._flops_per_token(stage)
        model_flops = sum(x for part, x in parts.items() if part != RECOMPUTATION)
        self.position = Position(
            step=step,
            rows=at.rows + rows,
            tokens=at.tokens + tokens,
            flops=at.flops + tokens * model_flops,
        )
        self._rows += rows if is_read else 0
        for part, flops in parts.items():
            self._flops[part] += tokens * flops

    def bill(self) -> Bill:
        """Returns the bill up to now; all processes must call it."""
        totals = self._times.totals()
        held_out = sum(
            tokens * forward_flops(config, self._experiment.seq_len)
            for config, tokens in self._held_out.items()
        )
        flops = {part: self._flops[part] for part in _PARTS}
        flops[EVALUATION] += held_out
        now = sum(totals.values()) - self._times.earlier
        return Bill(
            devices=self._devices,
            device_kind=self._kind,
            chip_seconds=self._chip_seconds + now * self._devices,
            seconds=totals,
            flops=flops,
            rows=self._rows,
            tokens=self.position.tokens,
            bytes_read=self._bytes
            + _over_processes(BYTES_READ.total - self._bytes_then),
        )

    def write_bill(self) -> Bill:
        """Writes the bill up to now, and returns it; all processes must call it.

        A bill that cannot be written is no reason to stop.
        """
        bill = self.bill()
        if jax.process_index() == 0 and self._workdir is not None:
            try:
                bill.write(self._workdir)
            except OSError as error:
                logging.warning("%s; training goes on.", error)
        return bill

    def _flops_per_token(self, stage: Stage) -> dict[str, int]:
        if stage.name not in self._per_token:
            teacher = stage.distillation.teacher if stage.distillation else None
            experiment = self._experiment
            bill = training_bill(experiment.model, teacher, experiment.seq_len)
            self._per_token[stage.name] = bill.by_part
        return self._per_token[stage.name]


def _over_processes(count: int) -> int:
    """Returns the sum of a count over all processes, which must all call it."""
    if jax.process_count() == 1:
        return count
    # JAX has no 64-bit integers by default.
    halves = np.array([count >> 31, count & ((1 << 31) - 1)], np.int32)
    found = np.asarray(multihost_utils.process_allgather(halves), np.int64)
    return int(np.sum((found[:, 0] << 31) + found[:, 1]))
