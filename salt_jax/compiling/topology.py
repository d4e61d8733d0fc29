"""The devices of a topology by name, whether or not such hardware is attached."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import topologies

from salt_jax.compiling.gpu_targets import GPUS, open_gpus
from salt_jax.mesh.chips import Chip, chip_of
from salt_jax.mesh.memory import GIB, available_per_device

HERE = "here"


@dataclasses.dataclass(frozen=True)
class _Family:
    """The possible slices of one TPU generation."""

    dimensions: int  # The dimensions of the torus.
    most_chips: int  # The largest slice.
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_FAMILIES = {
    # Megacore: both cores of a chip are one device.
    "v4": _Family(3, 4096, {"chip_config_name": "megacore"}),
    "v5e": _Family(2, 256),
    "v5p": _Family(3, 8960),
    "v6e": _Family(2, 256),
}
KNOWN = (
    "v4:AxBxC, v5e:AxB, v5p:AxBxC, v6e:AxB, a100:N, h100:N, h200:N, b200:N (h100:8x4: "
    "4 hosts of 8), gpu:N or here"
)
# Variables that libtpu reads on a TPU host; any value will do for compiling.
_WITHOUT_A_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-256",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or more slices, or hosts with GPUs, of one kind of chip."""

    name: str
    num_slices: int
    devices: Sequence[jax.Device]

    @property
    def chip(self) -> Chip | None:
        """The published figures of the chip; None if unknown."""
        return chip_of(self.devices[0].device_kind)

    @property
    def available(self) -> int:
        """The usable bytes of a chip."""
        if self.chip is not None:
            return int(self.chip.usable_gib * GIB)
        return available_per_device(self.devices[0])

    @property
    def is_absent_gpu(self) -> bool:
        """Whether its devices are GPUs that are not attached."""
        return self.name.partition(":")[0] in GPUS

    @property
    def one_host(self) -> Sequence[jax.Device]:
        """The devices of one host.

        For a TPU, they are those of a slice with the shape of the host, because nothing
        compiles for a part of a slice.
        """
        first = self.devices[0].process_index
        host = [device for device in self.devices if device.process_index == first]
        family = self.name.partition(":")[0]
        if family not in _FAMILIES:
            return host
        places = [device.coords for device in host]
        sides = [
            1 + max(place[i] for place in places) - min(place[i] for place in places)
            for i in range(_FAMILIES[family].dimensions)
        ]
        return open_topology(f"{family}:{'x'.join(map(str, sides))}").devices

    def __str__(self) -> str:
        kind = self.chip.name if self.chip else self.devices[0].device_kind
        is_gpu = self.devices[0].platform == "gpu"
        part, chip = ("host", "GPUs") if is_gpu else ("slice", "chips")
        parts = len({x.process_index for x in self.devices} if is_gpu else ()) or (
            self.num_slices
        )
        return (
            f"{self.name}, {parts} {part}{'s' if parts > 1 else ''} of "
            f"{len(self.devices) // parts} {kind} {chip}, "
            f"{self.available / GIB:.2f} GiB usable each"
        )


def prepare_process(name: str) -> None:
    """Prepares JAX to compile for `name`. Call it before JAX initializes a backend.

    For chips that are not here, only the compiler is used: arrays stay on the CPU
    unless JAX_PLATFORMS is set.
    """
    family = name.partition(":")[0]
    if name == HERE or family == "gpu":
        return
    if family in _FAMILIES:
        for variable, value in _WITHOUT_A_TPU.items():
            os.environ.setdefault(variable, value)
    if not os.environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", "cpu")


def open_topology(name: str, num_slices: int = 1) -> Topology:
    """Returns the topology called `name`.

    Args:
      name: The topology of one slice, such as "v5e:16x16", or GPUs per host and hosts,
        such as "h100:8x4". "here" means the devices of this machine.
      num_slices: The number of slices, connected by the data-center network.

    Raises:
      ValueError: the topology is unknown, or its compiler is not installed.
    """
    if num_slices < 1:
        raise ValueError(f"--num_slices={num_slices} is not a positive number.")
    family, _, size = name.partition(":")
    if name == HERE or family == "gpu" or family in GPUS:
        if num_slices > 1:
            raise ValueError(
                f"--topology={name} is one slice, got --num_slices={num_slices}."
            )
        return Topology(name, 1, _devices(name, family, size))
    _check_name(name, family, size)
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--topology={name} needs the TPU compiler, which is not installed: run "
            "pip install -e '.[tpu]'."
        )
    options = dict(_FAMILIES[family].options)
    if size == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        description = topologies.get_topology_desc(
            platform="tpu", topology_name=name, num_slices=num_slices, **options
        )
    except Exception as error:
        raise ValueError(
            f"The TPU compiler does not support --topology={name} ({error})."
        ) from error
    return Topology(name, num_slices, description.devices)


def _check_name(name: str, family: str, size: str) -> None:
    if family not in _FAMILIES or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
        raise ValueError(f"--topology={name} is not one of {KNOWN}.")
    known = _FAMILIES[family]
    sides = [int(side) for side in size.split("x")]
    if len(sides) != known.dimensions:
        raise ValueError(
            f"--topology={name} has {len(sides)} dimensions; {family} slices have "
            f"{known.dimensions}."
        )
    chips = 1
    for side in sides:
        chips *= side
    if chips > known.most_chips:
        raise ValueError(
            f"--topology={name} has {chips} chips, and a {family} slice has at most "
            f"{known.most_chips}: use several slices with --num_slices."
        )


def _devices(name: str, family: str, size: str) -> Sequence[jax.Device]:
    if name == HERE:
        return jax.devices()
    return open_gpus(name) if family in GPUS else _gpus(name, size)


def _gpus(name: str, size: str) -> Sequence[jax.Device]:
    if not size.isdecimal() or int(size) < 1:
        raise ValueError(f"--topology={name} is not one of {KNOWN}.")
    try:
        devices = jax.devices("gpu")
    except RuntimeError:
        devices = []
    if len(devices) < int(size):
        raise ValueError(
            f"--topology={name} needs {size} GPUs, and JAX sees {len(devices)}: name "
            f"their kind ({', '.join(GPUS)}) to compile without them."
        )
    return devices[: int(size)]
