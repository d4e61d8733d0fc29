"""Compile an experiment for a pod, and show whether it fits.

No such pod has to be here. The table shows, for each program, the memory of a chip,
what moves between chips and a roofline estimate of its speed. Exit code 0: it fits; 1:
it does not. --save keeps the compiled steps for train --compiled; --search tries other
ways to run the experiment.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from absl import logging
from etils import epath

from salt_jax.commands.options import (
    RunOptions,
    add_distributed,
    add_gin,
    add_workdir,
    join,
    positive,
)

EXAMPLES = """\
  salt_jax compile --gin_file=gin/salt_2p8b.gin --topology=v5e:16x16
  salt_jax compile --gin_file=gin/salt_70b.gin --topology=v5p:8x8x16 --num_slices=2
  salt_jax compile --gin_file=gin/salt_2p8b.gin --topology=here --save=/steps"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """The options of compile."""

    topology: str
    num_slices: int = 1
    programs: str | None = None
    optimization_level: str | None = None
    json: bool = False
    save: str | None = None
    search: int | None = None
    output: str | None = None
    distributed: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.save and self.optimization_level not in (None, "train"):
            raise ValueError(
                "--save keeps the programs that train runs, compiled at its level: "
                f"leave out --optimization_level={self.optimization_level}."
            )
        given = {
            "--save": self.save,
            "--json": self.json,
            "--programs": self.programs,
        }
        if self.search is not None and any(given.values()):
            names = " and ".join(name for name, value in given.items() if value)
            raise ValueError(f"--search has no use for {names}: leave it out.")
        if self.search is None and self.output:
            raise ValueError("--output is for --search: leave it out.")
        if self.save and self.programs:
            raise ValueError("--save keeps every stage: leave out --programs.")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of compile."""
    add_gin(parser)
    pod = parser.add_argument_group("devices")
    pod.add_argument(
        "--topology",
        required=True,
        metavar="v5e:16x16|h100:8|here",
        help="v4:AxBxC, v5e:AxB, v5p:AxBxC, v6e:AxB; a100:N, h100:N, h200:N, b200:N, "
        "with xHOSTS for several hosts; gpu:N; here (required)",
    )
    pod.add_argument(
        "--num_slices",
        type=positive,
        metavar="N",
        help="slices of this topology (default: %(default)s)",
    )
    add_distributed(pod.add_argument)
    _add_compilation(parser)


def _add_compilation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("compilation")
    add_workdir(group.add_argument)
    group.add_argument(
        "--programs",
        metavar="A,B",
        help="only these, by name: stages, score, init (default: all)",
    )
    group.add_argument(
        "--optimization_level",
        choices=("O0", "O1", "O2", "O3", "train"),
        help="XLA's optimization level, or that of train (default: O0, the fastest fit "
        "check; with --save, train)",
    )
    group.add_argument("--json", action="store_true", help="print JSON")
    group.add_argument(
        "--save", metavar="DIR", help="keep the compiled steps for train --compiled"
    )
    group.add_argument(
        "--search",
        nargs="?",
        type=positive,
        const=12,
        metavar="N",
        help="compile up to N other meshes, microbatches and chunks, and rank them "
        "(N: %(const)s)",
    )
    group.add_argument(
        "--output",
        metavar="DIR",
        help="where --search writes (default: compile/ in the run directory)",
    )


def run(options: Options) -> int:
    """Compiles, prints what came out, and returns 0 if it fits and 1 if not.

    Raises:
      FileNotFoundError: a gin file is missing.
      ValueError: there is no such topology, or the experiment cannot run on it.
    """
    join(options.distributed)
    from salt_jax.compiling import table
    from salt_jax.compiling.compile import FIT_CHECK_LEVEL, compile_run
    from salt_jax.compiling.topology import open_topology, prepare_process
    from salt_jax.config import Experiment, Scoring
    from salt_jax.files.records import seal
    from salt_jax.training.saved_steps import save_compiled

    default = "train" if options.save else FIT_CHECK_LEVEL
    level = options.optimization_level or default
    prepare_process(options.topology)
    job = options.load("compile", Experiment, Scoring)
    topology = open_topology(options.topology, options.num_slices)
    if options.save and topology.is_absent_gpu:
        raise ValueError(
            f"--save is not for --topology={options.topology}: XLA tunes a program for "
            "GPUs by running its kernels. Save on one of its hosts, with "
            "--topology=here."
        )
    if options.save and isinstance(job, Scoring):
        raise ValueError("--save keeps the steps of training, and this file scores.")
    if options.search is not None:
        return _search(job, topology, options, options.search)
    only = options.programs.split(",") if options.programs else ()
    report = compile_run(
        job, topology, only, optimization_level=None if level == "train" else level
    )
    if options.json:
        print(json.dumps(seal(table.as_json(report)), indent=2))
    else:
        print(table.render(report))
    if options.save and report.program is not None:
        steps = {
            one.planned.name: one.compiled
            for one in report.inspected
            if one.compiled is not None and one.planned.stage is not None
        }
        save_compiled(options.save, report.program, steps)
        logging.info("Saved %s in %s.", " and ".join(steps), options.save)
    return 0 if report.fits else 1


def _search(job: Any, topology: Any, options: Options, most: int) -> int:
    from salt_jax.compiling import search
    from salt_jax.config import Scoring

    if isinstance(job, Scoring):
        raise ValueError("--search turns how a model is trained, and this file scores.")
    output = epath.Path(options.output or options.run_directory() / "compile")
    found = search.search(job, topology, output, most)
    print(search.table(found, topology))
    return 0 if found else 1
