"""A search for settings that make an experiment fit a topology, fewest FLOPs first."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from salt_jax import config
from salt_jax.compiling.compile import FIT_CHECK_LEVEL, compiling, on_slices
from salt_jax.compiling.inspected import inspect
from salt_jax.compiling.programs import Planned, of_stage
from salt_jax.compiling.topology import Topology
from salt_jax.config import Experiment
from salt_jax.files.records import read_record, write_record
from salt_jax.mesh.memory import GIB
from salt_jax.model.config import REMAT_POLICIES
from salt_jax.model.flops import training_bill
from salt_jax.training.program import Program
from salt_jax.training.saved_steps import facts

_MICROBATCHES = (1, 2, 4, 8, 16, 32)
_CHUNKS = (256, 1024, 4096)
_MODEL_AXES = (1, 2, 4, 8)
_TOO_LARGE = 2.0  # An estimate is at most this many times the compiled memory.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings that change memory and speed, but not the result."""

    remat: str
    num_microbatches: int
    loss_chunk_tokens: int
    model: int  # The mesh axis.

    def of(self, experiment: Experiment) -> Experiment:
        """Returns `experiment` with these settings."""
        mesh = dataclasses.replace(experiment.mesh, model=self.model, data=None)
        return dataclasses.replace(
            experiment,
            model=dataclasses.replace(experiment.model, remat=self.remat),
            num_microbatches=self.num_microbatches,
            loss_chunk_tokens=self.loss_chunk_tokens,
            mesh=mesh,
        )

    def overrides(self, replica: int = 1) -> str:
        """Returns the settings as arguments of the command line."""
        values = {
            "model.TransformerConfig.remat": f"\"'{self.remat}'\"",
            "config.Experiment.num_microbatches": self.num_microbatches,
            "config.Experiment.loss_chunk_tokens": self.loss_chunk_tokens,
            "config.Experiment.mesh": "'@partitioning.MeshShape()'",
            "partitioning.MeshShape.model": self.model,
        }
        if replica > 1:
            values["partitioning.MeshShape.replica"] = replica
        return " ".join(f"--gin.{name}={value}" for name, value in values.items())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A choice with the memory of its compiled program."""

    choice: Choice
    flops: int  # Per token.
    peak: int  # Bytes per chip.
    fits: bool


def search(
    experiment: Experiment, topology: Topology, output: epath.Path, most: int
) -> list[Found]:
    """Compiles the largest stage with each choice that may fit.

    Args:
      experiment: The experiment whose settings are varied.
      topology: The devices to compile for.
      output: The folder of search.json, from which an interrupted search resumes.
      most: The maximum number of compilations.

    Returns:
      The choices that fit and are Pareto-optimal in FLOPs and memory, fewest FLOPs
      first.
    """
    kept = _Kept(output / "search.json")
    done: list[Found] = []
    num_compiled = 0
    for group in _groups(experiment, topology):
        measured = 1 / _TOO_LARGE  # Compiled memory divided by the estimate.
        tried = False
        for choice in group.choices:
            # The last choice needs the least memory: it decides whether any can fit.
            is_last = choice is group.choices[-1] and tried
            too_large = group.estimate(choice) * measured > topology.available
            if too_large and not is_last:
                continue
            tried = True
            chosen = on_slices(choice.of(experiment), topology.num_slices)
            key = _key(chosen, group.about)
            found = kept.get(key, choice)
            if found is None:
                if num_compiled == most:
                    return _frontier(done)
                num_compiled += 1
                logging.info("Search %d of %d: %s.", num_compiled, most, choice)
                found = _compiled(choice, chosen, topology)
                kept.put(key, found)
            measured = found.peak / group.estimate(choice)
            done.append(found)
            if found.fits:
                break  # The others of the group only take more time.
    return _frontier(done)


def table(found: Sequence[Found], topology: Topology) -> str:
    """Returns a line for each choice, with overrides for the command line."""
    if not found:
        return (
            "No compiled choice fits: continue with a larger --search=N, or use a "
            "larger topology."
        )
    lines = [f"GFLOP a token  GiB of {topology.available / GIB:.2f}  overrides"]
    for one in found:
        numbers = f"{one.flops / 1e9:>13.3g}  {one.peak / GIB:>12.2f}"
        lines.append(f"{numbers}  {one.choice.overrides(topology.num_slices)}")
    lines.append(
        "The figures are those of the largest stage; compile with one of the choices "
        "for the other programs."
    )
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class _Group:
    """Choices with equal FLOPs and an equal mesh."""

    about: Mapping[str, Any]  # Facts besides the experiment that decide the program.
    base: Planned  # The program of the first choice.
    choices: Sequence[Choice]  # The most memory first.

    def estimate(self, choice: Choice) -> float:
        """Returns the bytes per chip by formula."""
        made = dict(self.base.made)
        rows = made.pop("saved activations") / choice.num_microbatches
        chunks = made.pop("logits") / self.choices[0].loss_chunk_tokens
        fixed = sum(self.base.held.values()) + sum(made.values())
        return fixed + rows + chunks * choice.loss_chunk_tokens


def _groups(experiment: Experiment, topology: Topology) -> Iterator[_Group]:
    """Yields the groups that divide over the devices, fewest FLOPs and shards first.

    Raises:
      ValueError: no group is valid; the error of the last one.
    """
    refusal, any_divides = None, False
    chunks = sorted({*_CHUNKS, experiment.loss_chunk_tokens}, reverse=True)
    for remat, model in itertools.product(_by_flops(experiment), _MODEL_AXES):
        choices = [
            Choice(
                remat=remat, num_microbatches=m, loss_chunk_tokens=chunk, model=model
            )
            for m in _MICROBATCHES
            for chunk in chunks
        ]
        first = on_slices(choices[0].of(experiment), topology.num_slices)
        try:
            program = Program.on(first, topology.devices)
            planned = [of_stage(program, stage) for stage in first.stages]
        except ValueError as error:
            refusal = error  # Usually: it does not divide over the devices.
            continue
        any_divides = True
        shards = program.partitioning.size("batch")
        yield _Group(
            about=facts(program) | {"topology": topology.name},
            base=max(planned, key=_held),
            choices=[x for x in choices if first.divides(x.num_microbatches, shards)],
        )
    if refusal is not None and not any_divides:
        raise refusal


def _held(planned: Planned) -> int:
    return sum(planned.held.values())


def _by_flops(experiment: Experiment) -> list[str]:
    def flops(remat: str) -> int:
        model = dataclasses.replace(experiment.model, remat=remat)
        return training_bill(model, None, experiment.seq_len).total

    return sorted(REMAT_POLICIES, key=flops)


def _compiled(choice: Choice, experiment: Experiment, topology: Topology) -> Found:
    program = Program.on(experiment, topology.devices)
    stages = [of_stage(program, stage) for stage in experiment.stages]
    planned = max(stages, key=_held)
    with compiling(FIT_CHECK_LEVEL):
        one = inspect(planned, topology.available)
    logging.info(
        "%s: %.2f of %.2f GiB.",
        "It fits" if one.fits else "It does not fit",
        one.needed / GIB,
        topology.available / GIB,
    )
    flops = planned.flops.total
    return Found(choice=choice, flops=flops, peak=one.needed, fits=one.fits)


def _frontier(done: Sequence[Found]) -> list[Found]:
    frontier: list[Found] = []
    for one in sorted(done, key=lambda found: (found.flops, found.peak)):
        if one.fits and all(one.peak < other.peak for other in frontier):
            frontier.append(one)
    return frontier


def _key(experiment: Experiment, about: Mapping[str, Any]) -> str:
    text = json.dumps([config.as_json(experiment), about], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Kept:
    """The results of earlier compilations, in a file."""

    def __init__(self, path: epath.Path):
        self._path = path
        self._found: dict[str, Found] = {}
        if path.is_file():
            remedy = "remove it, and search again"
            self._found = read_record(path, dict[str, Found], remedy=remedy)

    def get(self, key: str, choice: Choice) -> Found | None:
        found = self._found.get(key)
        return None if found is None else dataclasses.replace(found, choice=choice)

    def put(self, key: str, found: Found) -> None:
        self._found[key] = found
        kept = {key: dataclasses.asdict(one) for key, one in self._found.items()}
        write_record(self._path, kept)
