"""The command line: prepare, train, score, evaluate, export, report."""

from __future__ import annotations

import argparse
import json
import logging as python_logging
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import logging
from etils import epath

from salt_jax import config, gin_config
from salt_jax.checkpoint import Checkpointer
from salt_jax.config import Experiment, Scoring
from salt_jax.data.prepare import Preparation, prepare
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.evaluate import evaluate, table, write_evaluation
from salt_jax.export import Export, write_export
from salt_jax.preemption import PreemptedError
from salt_jax.program import Program
from salt_jax.report.write import write_report
from salt_jax.sample import samples
from salt_jax.score import score
from salt_jax.train import train

EXAMPLES = """examples:
  python -m salt_jax.main --gin_file=gin/tiny_salt_ds.gin --workdir=runs/mine
  python -m salt_jax.main --gin_file=gin/salt_2p8b.gin --gin.KD_WEIGHT=0.5
  python -m salt_jax.main evaluate --gin_file=gin/tiny_salt_ds.gin --workdir=runs/mine
  python -m salt_jax.main export --gin_file=gin/slm_1p5b.gin --step=26000 \\
      --output=/exports/slm_1p5b_early

Without a command, a file that binds config.Experiment trains, config.Scoring scores
and prepare.Preparation prepares."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0: done, or asked to stop and saved. 2: the caller can fix it. 1: anything else.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(_as_bindings(arguments))
    _log_to_stderr()
    try:
        _run(options)
    except PreemptedError as stopped:
        print(f"{stopped} Give the same command to go on.", file=sys.stderr)
    except (ValueError, FileNotFoundError) as error:
        return _refuse(error, 2, verbose=options.verbose)
    except (FloatingPointError, OSError) as error:
        return _refuse(error, 1, verbose=options.verbose)
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.command == "report":
        _report(options)
        return
    if not options.gin_file:
        raise ValueError("Give --gin_file=FILE; see --help.")
    job = gin_config.load(options.gin_file, options.gin_bindings)
    commands: dict[type, dict[str, Callable[[Any, argparse.Namespace], None]]] = {
        Experiment: {"train": _train, "evaluate": _evaluate, "export": _export},
        Scoring: {"score": _score},
        Preparation: {"prepare": _prepare},
    }
    possible = commands[type(job)]
    command = options.command or next(iter(possible))
    if command not in possible:
        raise ValueError(
            f"{options.gin_file[-1]} binds {type(job).__name__}, which can "
            f"{' or '.join(possible)}, not {command}."
        )
    if options.distributed:
        jax.distributed.initialize()
    possible[command](job, options)


def _prepare(preparation: Preparation, options: argparse.Namespace) -> None:
    prepare(preparation)


def _train(experiment: Experiment, options: argparse.Namespace) -> None:
    train(
        experiment,
        _workdir(options),
        operative_gin=gin_config.operative_config(),
        accepted_changes=options.accept_change,
    )


def _score(scoring: Scoring, options: argparse.Namespace) -> None:
    score(scoring)


def _evaluate(experiment: Experiment, options: argparse.Namespace) -> None:
    program = Program.on(experiment)
    workdir = _workdir(options)
    program.check_memory()
    if options.export:
        export = Export.open(options.export)
        export.check_model(experiment.model)
        step = export.provenance["step"]
        params = export.load(program.abstract_state.params)
    else:
        with Checkpointer.reading(workdir / "checkpoints") as saved:
            step = _step(saved, options.step)
            params = saved.restore_params(step, program.abstract_state.params)
    results = evaluate(program, params)
    count = sum(x.size for x in jax.tree.leaves(params))
    workdir.mkdir(parents=True, exist_ok=True)
    write_evaluation(workdir / "evaluation.json", results, step=step, params=count)
    data = experiment.validation.data if experiment.validation else None
    if data is not None:
        written = samples(
            program.student,
            params,
            data.open(seq_len=experiment.seq_len),
            Vocabulary.open(data.vocabulary),
        )
        (workdir / "samples.json").write_text(json.dumps(written, indent=2) + "\n")
    print(table(results))


def _export(experiment: Experiment, options: argparse.Namespace) -> None:
    program = Program.on(experiment)
    workdir = _workdir(options)
    output = epath.Path(options.output or workdir / "export")
    like = program.abstract_state.params
    with Checkpointer.reading(workdir / "checkpoints") as saved:
        step = _step(saved, options.step)
        params = saved.restore_params(step, like)
        meta = saved.read_meta(step)
    write_export(
        output,
        params,
        model=experiment.model,
        vocabulary=Vocabulary.open(experiment.stages[-1].data.vocabulary).path,
        provenance={
            "workdir": str(workdir),
            "step": step,
            "experiment_fingerprint": config.fingerprint(experiment),
            "stage": meta["stage"],
        },
        dtype=options.dtype,
    )
    logging.info("Exported step %d of %s to %s.", step, workdir, output)


def _report(options: argparse.Namespace) -> None:
    for name in ("baseline", "salt", "slm", "output"):
        if not getattr(options, name):
            raise ValueError(f"report needs --{name}=DIR.")
    page = write_report(
        options.output,
        baseline=options.baseline,
        salt=options.salt,
        slm=options.slm,
        scores=options.scores,
        commands=("bash launch/demo.sh --fresh",),
    )
    print(f"The report is {page}.")


def _step(saved: Checkpointer, wanted: str) -> int:
    steps = {"latest": saved.latest_step(), "best": saved.best_step()}
    step = steps[wanted] if wanted in steps else int(wanted)
    if step is None:
        raise FileNotFoundError(f"No {wanted} checkpoint in {saved.directory}.")
    return step


def _workdir(options: argparse.Namespace) -> epath.Path:
    stem = pathlib.PurePath(options.gin_file[-1]).stem
    return epath.Path(options.workdir or f"runs/{stem}")


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command."""

    def error(self, message: str) -> NoReturn:
        print(f"salt_jax: {message}; see --help.", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m salt_jax.main",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = ("prepare", "train", "score", "evaluate", "export", "report")
    add = parser.add_argument
    add("command", nargs="?", choices=commands)
    add("--gin_file", action="append", default=[], help="may be repeated")
    add("--gin_bindings", action="append", default=[], metavar="'NAME = VALUE'")
    parser.add_argument_group("overrides").add_argument(
        "--gin.NAME", dest="unused", metavar="VALUE", help="the same as --gin_bindings"
    )
    add("--workdir", help="the folder of the run; runs/<gin file's stem> by default")
    add("--accept_change", action="append", default=[], metavar="FIELD")
    add("--step", default="latest", help="a number, latest (the default) or best")
    add("--export", help="evaluate: an export instead of a checkpoint")
    add("--output", help="export, report: where to write")
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="export")
    for name in ("baseline", "salt", "slm", "scores"):
        add(f"--{name}", metavar="DIR", help="report: a workdir (scores: its folder)")
    add("--distributed", action="store_true", help="one of several processes")
    add("--verbose", action="store_true", help="show where an error came from")
    return parser


def _as_bindings(arguments: Sequence[str]) -> list[str]:
    """Turns --gin.NAME=VALUE into --gin_bindings=NAME=VALUE."""
    prefix = "--gin."
    return [
        f"--gin_bindings={argument.removeprefix(prefix)}"
        if argument.startswith(prefix) and "=" in argument
        else argument
        for argument in arguments
    ]


def _log_to_stderr() -> None:
    """Shows the package's own log lines, and other packages' warnings."""
    handler = python_logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    )
    handler.addFilter(
        lambda record: (
            record.levelno >= python_logging.WARNING or "salt_jax" in record.pathname
        )
    )
    python_logging.getLogger().handlers = [handler]
    logger = python_logging.getLogger("absl")
    logger.handlers, logger.propagate = [], True
    logging.set_verbosity(logging.INFO)


def _refuse(error: Exception, code: int, *, verbose: bool) -> int:
    if verbose:
        logging.exception("%s", error)
    else:
        print(f"salt_jax: {' '.join(str(error).split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
