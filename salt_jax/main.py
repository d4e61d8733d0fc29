"""What each command of the command line does."""

from __future__ import annotations

import argparse
import pathlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import logging
from etils import epath

from salt_jax import gin_config
from salt_jax.commands import compile as compile_command
from salt_jax.commands import few_shot as few_shot_command
from salt_jax.commands import generate as generate_command
from salt_jax.commands import hugging_face as hugging_face_command
from salt_jax.commands import parser
from salt_jax.commands import report as report_command
from salt_jax.config import Experiment, Scoring
from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.preparing.verify import verify
from salt_jax.evaluate import evaluate_run
from salt_jax.export import export_run
from salt_jax.report.selection import report_selections
from salt_jax.score import score
from salt_jax.telemetry.profiling import TracedSteps
from salt_jax.train import train
from salt_jax.training.preemption import PreemptedError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0: done, or asked to stop and saved. 2: the caller can fix it. 130: interrupted from
    the keyboard. 1: anything else.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse(arguments)
    parser.log_to_stderr()
    try:
        return _run(options) or 0
    except PreemptedError as stopped:
        print(f"{stopped} Give the same command to go on.", file=sys.stderr)
    except KeyboardInterrupt:
        print("salt_jax: interrupted.", file=sys.stderr)
        return 130
    except (ValueError, FileNotFoundError) as error:
        return _refuse(error, 2, verbose=options.verbose)
    except (FloatingPointError, OSError) as error:
        return _refuse(error, 1, verbose=options.verbose)
    return 0


def _run(options: argparse.Namespace) -> int | None:
    if options.command in ("report", "compare"):
        of_runs = {"report": report_command.report, "compare": report_command.compare}
        of_runs[options.command](options)
        return None
    of_exports = _command_of_exports(options)
    if not options.gin_file and of_exports is None:
        raise ValueError("Give --gin_file=FILE; see --help.")
    if options.distributed:
        _join(options.distributed)
    if of_exports is not None:
        of_exports(options)
        return None
    if options.command == "compile":
        compile_command.prepare(options)
    job = gin_config.load(options.gin_file, options.gin_bindings)
    commands: dict[type, dict[str, Callable[[Any, argparse.Namespace], int | None]]] = {
        Experiment: {
            "train": _train,
            "select": _select,
            "evaluate": _evaluate,
            "export": _export,
            "compile": _compile,
        },
        Scoring: {"score": _score, "compile": _compile},
        Preparation: {"prepare": _prepare},
    }
    possible = commands[type(job)]
    command = options.command or next(iter(possible))
    if command not in possible:
        raise ValueError(
            f"{options.gin_file[-1]} binds {type(job).__name__}, which can "
            f"{' or '.join(possible)}, not {command}."
        )
    return possible[command](job, options)


def _command_of_exports(
    options: argparse.Namespace,
) -> Callable[[argparse.Namespace], None] | None:
    """Returns what is done to exports, and needs no experiment; None if that is not."""
    if options.command == "generate":
        return generate_command.run
    if options.command == "import":
        return hugging_face_command.run_import
    if options.command == "export" and options.export:
        return hugging_face_command.run_export
    if options.command == "evaluate" and options.tasks is not None:
        return few_shot_command.run
    return None


def _join(processes: str) -> None:
    """Makes this one of several processes, before anything asks for a device."""
    if processes == "auto":
        jax.distributed.initialize()
        return
    try:
        address, count, index = processes.split(",")
        jax.distributed.initialize(address, int(count), int(index))
    except ValueError as error:
        raise ValueError(
            f"--distributed={processes} is neither auto nor HOST:PORT,COUNT,INDEX "
            f"({error})."
        ) from error


def _prepare(preparation: Preparation, options: argparse.Namespace) -> None:
    if jax.process_count() > 1:
        raise ValueError("prepare works in one process: leave out --distributed.")
    if options.beam is not None:
        if options.verify:
            raise ValueError("--verify reads what is there: leave out --beam.")
        _prepare_with_beam(preparation, shlex.split(options.beam))
        return
    if not options.verify:
        prepare(preparation)
        return
    if failures := verify(preparation):
        for failure in failures:
            print(f"salt_jax: {failure}", file=sys.stderr)
        raise ValueError(
            f"{len(failures)} failures: fetch what is damaged again, or delete the "
            "folder of its split and prepare that again."
        )


def _prepare_with_beam(preparation: Preparation, flags: Sequence[str]) -> None:
    try:
        # In an extra, and slow to import.
        from salt_jax.data.preparing import beam_prepare
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "apache_beam":
            raise
        raise ValueError(
            "--beam needs Apache Beam, which is not installed: run "
            "pip install -e '.[beam]'."
        ) from error
    beam_prepare.prepare_with_beam(preparation, flags)


def _train(experiment: Experiment, options: argparse.Namespace) -> None:
    train(
        experiment,
        _workdir(options),
        operative_gin=gin_config.operative_config(),
        accepted_changes=options.accept_change,
        traced=TracedSteps.parse(options.profile) if options.profile else None,
        began=options.began,
        compiled=options.compiled,
    )


def _score(scoring: Scoring, options: argparse.Namespace) -> None:
    score(scoring)


def _select(experiment: Experiment, options: argparse.Namespace) -> None:
    if options.distributed:
        raise ValueError("select works in one process: leave out --distributed.")
    output = epath.Path(options.output or _workdir(options) / "selection")
    for line in report_selections(experiment, output):
        print(line)
    print(f"The selection is shown in {output / 'selection.html'}.")


def _evaluate(experiment: Experiment, options: argparse.Namespace) -> None:
    if len(options.export) > 1:
        raise ValueError("Held-out loss is of one --export at a time.")
    for name in ("num_fewshot", "limit", "slices_by", "max_length", "dtype", "output"):
        if getattr(options, name) is not None:
            raise ValueError(f"--{name} is for --tasks: give them, or leave it out.")
    export = options.export[0] if options.export else None
    rows = evaluate_run(experiment, _workdir(options), step=options.step, export=export)
    if jax.process_index() == 0:
        print(rows)


def _export(experiment: Experiment, options: argparse.Namespace) -> None:
    workdir, dtype = _workdir(options), options.dtype or "float32"
    if options.format != "hf":
        output = epath.Path(options.output or workdir / "export")
        export_run(experiment, workdir, output, step=options.step, dtype=dtype)
        return
    output = epath.Path(options.output or workdir / "hugging_face")
    hugging_face_command.check(experiment.model, output, dtype)
    # On the way, and in the way of no other export.
    between = output.parent / f"{output.name}.salt_jax"
    export_run(experiment, workdir, between, step=options.step, dtype=dtype)
    hugging_face_command.write(options, between, output)
    between.rmtree()


def _compile(job: Experiment | Scoring, options: argparse.Namespace) -> int:
    return compile_command.run(job, options, _workdir(options))


def _workdir(options: argparse.Namespace) -> epath.Path:
    stem = pathlib.PurePath(options.gin_file[-1]).stem
    return epath.Path(options.workdir or f"runs/{stem}")


def _refuse(error: Exception, code: int, *, verbose: bool) -> int:
    if verbose:
        logging.exception("%s", error)
    else:
        print(f"salt_jax: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
