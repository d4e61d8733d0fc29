"""The command compile: what is asked for, and what is printed."""

from __future__ import annotations

import argparse
import json

from absl import logging
from etils import epath

from salt_jax.compiling import search, table
from salt_jax.compiling.compile import FIT_CHECK_LEVEL, compile_run
from salt_jax.compiling.topology import KNOWN, Topology, open_topology, prepare_process
from salt_jax.config import Experiment, Scoring
from salt_jax.training.saved_steps import save_compiled


def prepare(options: argparse.Namespace) -> None:
    """Readies the process; to be called before anything asks JAX for devices.

    Raises:
      ValueError: no topology is given, or options exclude each other.
    """
    if not options.topology:
        raise ValueError(f"compile needs --topology={KNOWN}.")
    if options.save and options.optimization_level not in (None, "train"):
        raise ValueError(
            "--save keeps the programs that train runs, compiled at its level: leave "
            f"out --optimization_level={options.optimization_level}."
        )
    level = options.optimization_level or ("train" if options.save else FIT_CHECK_LEVEL)
    options.optimization_level = None if level == "train" else level
    given = {
        "--save": options.save,
        "--json": options.json,
        "--programs": options.programs,
    }
    if options.search is not None and any(given.values()):
        names = " and ".join(name for name, value in given.items() if value)
        raise ValueError(f"--search has no use for {names}: leave it out.")
    if options.search is not None and options.search < 1:
        raise ValueError(f"--search={options.search}: try at least one way.")
    if options.save and options.programs:
        raise ValueError("--save keeps every stage: leave out --programs.")
    prepare_process(options.topology)


def run(
    job: Experiment | Scoring, options: argparse.Namespace, workdir: epath.Path
) -> int:
    """Compiles `job`, prints what came out, and returns 0 if it fits and 1 if not."""
    topology = open_topology(options.topology, options.num_slices)
    if options.save and isinstance(job, Scoring):
        raise ValueError("--save keeps the steps of training, and this file scores.")
    if options.search is not None:
        return _search(job, topology, options, workdir)
    only = options.programs.split(",") if options.programs else ()
    report = compile_run(
        job, topology, only, optimization_level=options.optimization_level
    )
    if options.json:
        print(json.dumps(table.as_json(report), indent=2))
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


def _search(
    job: Experiment | Scoring,
    topology: Topology,
    options: argparse.Namespace,
    workdir: epath.Path,
) -> int:
    if isinstance(job, Scoring):
        raise ValueError("--search turns how a model is trained, and this file scores.")
    output = epath.Path(options.output or workdir / "compile")
    found = search.search(job, topology, output, options.search)
    print(search.table(found, topology))
    return 0 if found else 1
