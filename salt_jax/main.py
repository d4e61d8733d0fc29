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

from salt_jax import command_line, gin_config
from salt_jax.config import Experiment, Scoring
from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.preparing.verify import verify
from salt_jax.few_shot import command as few_shot_command
from salt_jax.generation import command as generate_command
from salt_jax.hugging_face import command as hugging_face_command
from salt_jax.pods import command as compile_command
from salt_jax.preemption import PreemptedError
from salt_jax.profiling import TracedSteps
from salt_jax.report.fine_tuned import fine_tuned_table, is_fine_tuned
from salt_jax.report.seeds import Pair, seeds_table
from salt_jax.report.selection import report_selections
from salt_jax.report.write import write_report
from salt_jax.score import score
from salt_jax.train import train
from salt_jax.trained import evaluate_run, export_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0: done, or asked to stop and saved. 2: the caller can fix it. 130: interrupted from
    the keyboard. 1: anything else.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = command_line.parse(arguments)
    command_line.log_to_stderr()
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
        {"report": _report, "compare": _compare}[options.command](options)
        return None
    has_tasks = options.command == "evaluate" and options.tasks
    is_of_export = options.command == "export" and options.export
    needs_none = options.command in ("generate", "import") or is_of_export or has_tasks
    if not options.gin_file and not needs_none:
        raise ValueError("Give --gin_file=FILE; see --help.")
    if options.distributed:
        _join(options.distributed)
    if options.command == "generate":
        generate_command.run(options)
        return None
    if options.command == "import":
        hugging_face_command.run_import(options)
        return None
    if is_of_export:
        hugging_face_command.run_export(options)
        return None
    if has_tasks:
        few_shot_command.run(options)
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
    export = options.export[0] if options.export else None
    rows = evaluate_run(experiment, _workdir(options), step=options.step, export=export)
    if jax.process_index() == 0:
        print(rows)


def _export(experiment: Experiment, options: argparse.Namespace) -> None:
    workdir = _workdir(options)
    is_for_others = options.format == "hf"
    export = workdir / "export" if is_for_others else options.output
    export = epath.Path(export or workdir / "export")
    dtype = options.dtype or "float32"
    export_run(experiment, workdir, export, step=options.step, dtype=dtype)
    if is_for_others:
        output = options.output or workdir / "hugging_face"
        hugging_face_command.write(options, export, output)


def _compile(job: Experiment | Scoring, options: argparse.Namespace) -> int:
    return compile_command.run(job, options, _workdir(options))


def _report(options: argparse.Namespace) -> None:
    for name in ("baseline", "salt", "slm", "output"):
        if not getattr(options, name):
            raise ValueError(f"report needs --{name}=DIR.")
    if len(options.baseline) > 1 or len(options.salt) > 1:
        raise ValueError("report is of one --baseline and one --salt; see compare.")
    page = write_report(
        options.output,
        baseline=options.baseline[0],
        salt=options.salt[0],
        slm=options.slm,
        scores=options.scores,
        few_shot=options.few_shot,
        fine_tuned=options.fine_tuned,
        exports=options.export,
        commands=("bash launch/demo.sh --fresh",),
    )
    print(f"The report is {page}.")


def _compare(options: argparse.Namespace) -> None:
    if not options.baseline or len(options.baseline) != len(options.salt):
        raise ValueError(
            "compare needs --baseline=DIR and --salt=DIR, once a seed each; got "
            f"{len(options.baseline)} and {len(options.salt)}."
        )
    pairs = zip(options.baseline, options.salt, strict=True)
    read = [Pair.read(*pair) for pair in pairs]
    answered = all(is_fine_tuned(pair.baseline) for pair in read)
    print(fine_tuned_table(read) if answered else seeds_table(read))


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
