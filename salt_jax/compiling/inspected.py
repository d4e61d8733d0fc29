"""The memory and communication of one compiled program, per chip."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging

from salt_jax.compiling.attention_found import attention_kernels
from salt_jax.compiling.collectives import Collective, collectives
from salt_jax.compiling.gpu_targets import WITHOUT_A_GPU
from salt_jax.compiling.prediction import Prediction, predict
from salt_jax.compiling.programs import Planned
from salt_jax.mesh.chips import chip_of
from salt_jax.mesh.memory import GIB

_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
_SIZE = r"([\d.]+)([BKMGT])\w*"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspected:
    """A program after compilation, successful or out of memory."""

    planned: Planned
    peak: int  # Peak bytes per chip, arguments included.
    available: int  # Usable bytes of a chip.
    compiled: jax.stages.Compiled | None = None  # None: it ran out of memory.
    collectives: Sequence[Collective] = ()
    prediction: Prediction | None = None  # None: no schedule, or unknown rates.
    attention: Sequence[str] = ()  # The kernels that compute it.
    lower_seconds: float = 0.0
    compile_seconds: float = 0.0

    @property
    def needed(self) -> int:
        """Peak bytes per chip, with memory that other parts of the run hold."""
        return self.peak + sum(self.planned.beside.values())

    @property
    def fits(self) -> bool:
        """Whether the program fits into the memory of a chip."""
        return self.compiled is not None and self.needed <= self.available


def inspect(planned: Planned, available: int, *, predicted: bool = False) -> Inspected:
    """Compiles a program and reads its memory and communication.

    Args:
      planned: The program.
      available: Usable bytes of a chip.
      predicted: Whether to predict its time: it is compiled as `train` does.
    """
    logging.info("Compiling %s.", planned.name)
    began = time.monotonic()
    lowered = planned.lower()
    lower_seconds = time.monotonic() - began
    began = time.monotonic()
    try:
        compiled = lowered.compile(_options(planned))
    except jax.errors.JaxRuntimeError as error:
        seconds = time.monotonic() - began
        return Inspected(
            planned=planned,
            peak=exhausted_bytes(str(error)),
            available=available,
            lower_seconds=lower_seconds,
            compile_seconds=seconds,
        )
    seconds = time.monotonic() - began
    text = compiled.as_text() or ""
    return Inspected(
        planned=planned,
        peak=_peak(compiled, is_cpu=planned.mesh.devices.flat[0].platform == "cpu"),
        available=available,
        compiled=compiled,
        collectives=_collectives(planned, text),
        attention=attention_kernels(text),
        prediction=_prediction(planned, text) if predicted else None,
        lower_seconds=lower_seconds,
        compile_seconds=seconds,
    )


def _options(planned: Planned) -> dict[str, Any] | None:
    device = planned.mesh.devices.flat[0]
    is_absent_gpu = device.platform == "gpu" and device not in jax.devices()
    return dict(WITHOUT_A_GPU) if is_absent_gpu else None


def exhausted_bytes(message: str) -> int:
    """Returns the bytes that an out-of-memory error of the compiler names.

    Raises:
      ValueError: `message` is another error.
    """
    found = re.search(rf"Used {_SIZE} of {_SIZE}", message) or re.search(
        rf"required for .* \({_SIZE}\) exceeds", message
    )
    if "RESOURCE_EXHAUSTED" not in message or found is None:
        raise ValueError(f"The compiler failed ({message[:2000]}).")
    return int(float(found[1]) * _UNITS[found[2]])


def _peak(compiled: jax.stages.Compiled, *, is_cpu: bool) -> int:
    memory: Any = compiled.memory_analysis()
    # The peak of the CPU backend excludes temporaries.
    together = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    together += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(together if is_cpu else memory.peak_memory_in_bytes)


def _collectives(planned: Planned, text: str) -> list[Collective]:
    devices = planned.mesh.devices.flat
    # NVLink joins the GPUs of a host, as the interconnect joins the TPUs of a slice.
    island = "process_index" if devices[0].platform == "gpu" else "slice_index"
    island_of = [getattr(device, island, 0) for device in devices]
    return collectives(text, island_of)


def _prediction(planned: Planned, text: str) -> Prediction | None:
    chip = chip_of(planned.mesh.devices.flat[0].device_kind)
    return predict(text, planned.mesh, chip, planned.flops, planned.tokens_per_chip)
