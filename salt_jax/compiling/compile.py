"""Ahead-of-time compilation of all programs of a run, to see whether they fit."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import logging
from jax.experimental.compilation_cache import compilation_cache

from salt_jax.compiling import programs
from salt_jax.compiling.inspected import Inspected, inspect
from salt_jax.compiling.programs import Planned
from salt_jax.compiling.restore import RestoreLayout, restore_layout
from salt_jax.compiling.topology import Topology
from salt_jax.config import Experiment, Scoring
from salt_jax.training.program import Program

# Fit checks compile at the lowest optimization level: the program needs about the same
# memory and compiles fastest.
FIT_CHECK_LEVEL = "O0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The compiled programs of a run on a topology."""

    topology: Topology
    mesh_shape: Mapping[str, int]
    inspected: Sequence[Inspected]
    optimization_level: str | None  # See `compiling`.
    restore: RestoreLayout | None = None  # None: the run has no checkpoints.
    program: Program | None = None  # None: the run is no training.

    @property
    def fits(self) -> bool:
        """Whether every program fits into the memory of a chip."""
        return all(one.fits for one in self.inspected)

    @property
    def largest(self) -> Inspected:
        """The program that needs the most memory."""
        return max(self.inspected, key=lambda one: one.needed)


def compile_run(
    job: Experiment | Scoring,
    topology: Topology,
    only: Sequence[str] = (),
    *,
    optimization_level: str | None = FIT_CHECK_LEVEL,
) -> Report:
    """Compiles the programs of `job` for `topology`.

    No data, export or vocabulary has to exist.

    Args:
      job: The experiment or the scoring.
      topology: The devices to compile for.
      only: Names of programs to compile; () compiles all of them.
      optimization_level: See `compiling`.

    Raises:
      ValueError: the job does not divide over the devices, or `only` names an unknown
        program.
    """
    restore, program = None, None
    if isinstance(job, Scoring):
        planned = programs.of_scoring(job, topology.one_host)
    else:
        program = Program.on(on_slices(job, topology.num_slices), topology.devices)
        planned = programs.of_experiment(program)
        restore = restore_layout(program.abstract_state)
    with compiling(optimization_level):
        done = [
            inspect(one, topology.available, predicted=optimization_level is None)
            for one in _chosen(planned, only)
        ]
    return Report(
        topology=topology,
        mesh_shape=dict(planned[0].mesh.shape),
        inspected=done,
        optimization_level=optimization_level,
        restore=restore,
        program=program,
    )


def on_slices(experiment: Experiment, num_slices: int) -> Experiment:
    """Returns `experiment` with `replica` of its mesh set to the number of slices.

    A `replica` above 1 is kept; the mesh checks it.
    """
    mesh = experiment.mesh
    if num_slices == 1 or mesh.replica > 1:
        return experiment
    logging.info(
        "Compiling with MeshShape.replica=%d, one per slice: set the same in the "
        "experiment before training.",
        num_slices,
    )
    mesh = dataclasses.replace(mesh, replica=num_slices)
    return dataclasses.replace(experiment, mesh=mesh)


@contextlib.contextmanager
def compiling(optimization_level: str | None) -> Iterator[None]:
    """Sets the optimization level and disables the compilation cache.

    Without the cache, the measured compile times are real.

    Args:
      optimization_level: XLA's level, "O0" to "O3"; None for the default, which `train`
        uses. A program compiled at "O0" runs slowly.
    """
    changed = {
        "jax_enable_compilation_cache": False,
        "jax_optimization_level": optimization_level or "UNKNOWN",
    }
    before = {name: getattr(jax.config, name) for name in changed}
    _configure(changed)
    try:
        yield
    finally:
        _configure(before)


def _configure(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _chosen(planned: Sequence[Planned], only: Sequence[str]) -> Sequence[Planned]:
    names = [one.name for one in planned]
    if unknown := sorted(set(only) - set(names)):
        raise ValueError(
            f"--programs names unknown {', '.join(unknown)}; this run has "
            f"{', '.join(names)}."
        )
    return [one for one in planned if not only or one.name in only]
