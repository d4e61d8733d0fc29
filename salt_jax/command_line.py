"""What can be said on the command line, and what is printed back."""

from __future__ import annotations

import argparse
import logging as python_logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import logging

COMMANDS = (
    *("prepare", "score", "select", "train", "evaluate", "export"),
    *("report", "compare", "compile", "generate", "import"),
)
EXAMPLES = """examples:
  python -m salt_jax.main --gin_file=gin/tiny_salt_ds.gin --workdir=runs/mine
  python -m salt_jax.main --gin_file=gin/salt_2p8b.gin --gin.KD_WEIGHT=0.5
  python -m salt_jax.main evaluate --gin_file=gin/tiny_salt_ds.gin --workdir=runs/mine
  python -m salt_jax.main generate --export=runs/demo/exports/salt_ds --prompt=The
  python -m salt_jax.main compile --gin_file=gin/salt_2p8b.gin --topology=v5e:16x16
  python -m salt_jax.main export --gin_file=gin/slm_1p5b.gin --step=26000 \\
      --output=/exports/slm_1p5b_early
  python -m salt_jax.main export --format=hf --export=DIR --output=DIR
  python -m salt_jax.main import --from=DIR --output=DIR

Without a command, a file that binds config.Experiment trains, config.Scoring scores
and prepare.Preparation prepares."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the options that `arguments` give; ends the program if it cannot.

    Beside them `began`, the time on the clock that `time.monotonic` reads.
    """
    began = argparse.Namespace(began=time.monotonic())
    return _parser().parse_args(_as_bindings(arguments), began)


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command."""

    def error(self, message: str) -> NoReturn:
        print(f"salt_jax: {message}; see --help.", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m salt_jax.main",
        usage="%(prog)s [COMMAND] --gin_file=FILE [OPTION ...]",
        description="Pre-training with early help from a small model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("command", nargs="?", choices=COMMANDS)
    add("--gin_file", action="append", default=[], help="may be repeated")
    add("--gin_bindings", action="append", default=[], metavar="'NAME = VALUE'")
    parser.add_argument_group("overrides").add_argument(
        "--gin.NAME", dest="unused", metavar="VALUE", help="the same as --gin_bindings"
    )
    add("--verify", action="store_true", help="prepare: read all that is prepared")
    add(
        "--beam",
        metavar="FLAGS",
        help="prepare: with Apache Beam and its own flags; '' for none",
    )
    add("--workdir", help="the folder of the run; runs/<gin file's stem> by default")
    add("--accept_change", action="append", default=[], metavar="FIELD")
    add("--step", default="latest", help="a number, latest (the default) or best")
    add("--profile", metavar="START:N", help="train: trace N steps after step START")
    add(
        "--export",
        action="append",
        default=[],
        metavar="DIR",
        help="evaluate: instead of a checkpoint, or for tasks; generate: what writes",
    )
    add("--output", help="select, export, import, report, compile, --tasks: where")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="export, import: of what is written; float32, or what it was, by default; "
        "generate, --tasks: of the arithmetic; as it was trained by default",
    )
    add(
        "--format",
        default="salt_jax",
        choices=("salt_jax", "hf"),
        help="export: hf is for Hugging Face, from a run or from --export",
    )
    add("--from", dest="source", metavar="DIR", help="import: of Hugging Face")
    for name in ("baseline", "salt"):
        add(
            f"--{name}",
            action="append",
            default=[],
            metavar="DIR",
            help="report, compare: a workdir; compare: once a seed",
        )
    _add_of_compile(add)
    _add_of_generate(add)
    _add_of_few_shot(add)
    add("--slm", metavar="DIR", help="report: the small model's workdir")
    add("--scores", metavar="DIR", help="report: the folder of the scores")
    add("--few_shot", metavar="DIR", help="report: what evaluate --tasks wrote")
    add(
        "--fine_tuned",
        action="append",
        default=[],
        metavar="DIR",
        help="report: the workdir of a student that was fine-tuned",
    )
    add(
        "--distributed",
        metavar="auto|HOST:PORT,COUNT,INDEX",
        help="this is one of several processes; auto asks the cluster which",
    )
    add("--verbose", action="store_true", help="show where an error came from")
    return parser


def _add_of_compile(add: Callable[..., Any]) -> None:
    add("--topology", metavar="v5e:16x16", help="compile: for which devices, or here")
    add("--num_slices", type=int, default=1, metavar="N", help="compile: how many pods")
    add("--programs", metavar="A,B", help="compile: only these")
    add("--json", action="store_true", help="compile: print JSON")
    add(
        "--effort",
        type=float,
        metavar="-1..1",
        help="compile: how hard to try; -1 by default, or 0, as train, with --save",
    )
    add("--save", metavar="DIR", help="compile: keep the steps for train --compiled")
    add(
        "--search",
        metavar="N",
        nargs="?",
        type=int,
        const=12,
        help="compile: try at most N other ways to run it",
    )
    add("--compiled", metavar="DIR", help="train: steps that compile --save kept")


def _add_of_generate(add: Callable[..., Any]) -> None:
    add("--prompt", metavar="TEXT", help="generate: the beginning of a text")
    add("--prompt_file", metavar="FILE", help="generate: one a line, or JSON lines")
    for name, default, help_ in (
        ("max_new_tokens", 64, "the most that follow a prompt"),
        ("max_length", None, "tokens that the model reads, if the export is silent"),
        ("batch_size", 8, "prompts at a time; evaluate: rows of the greatest length"),
        ("top_k", None, "draw from the likeliest N"),
        ("seed", 0, "of what is drawn"),
    ):
        add(
            f"--{name}",
            type=int,
            default=default,
            metavar="N",
            help=f"generate: {help_}",
        )
    add(
        "--temperature",
        type=float,
        default=0.0,
        metavar="X",
        help="generate: 0, the default, takes the likeliest token",
    )
    add("--top_p", type=float, metavar="X", help="generate: draw from this share")
    add(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="generate: what ends a text; may be repeated",
    )


def _add_of_few_shot(add: Callable[..., Any]) -> None:
    add("--tasks", metavar="A,B", help="evaluate: few-shot tasks, of each --export")
    add("--num_fewshot", type=int, metavar="N", help="evaluate: examples before each")
    add("--limit", type=int, metavar="N", help="evaluate: at most N of each task")
    add("--slices_by", metavar="DIR", help="evaluate: also by how this export does")
    add(
        "--confirm_run_unsafe_code",
        action="store_true",
        help="evaluate: run the code that a model writes for a task",
    )


def _as_bindings(arguments: Sequence[str]) -> list[str]:
    """Turns --gin.NAME=VALUE into --gin_bindings=NAME=VALUE."""
    prefix = "--gin."
    return [
        f"--gin_bindings={argument.removeprefix(prefix)}"
        if argument.startswith(prefix) and "=" in argument
        else argument
        for argument in arguments
    ]


def log_to_stderr() -> None:
    """Shows the package's own log lines, and warnings, but what gin is to raise."""
    handler = python_logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        python_logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
    )
    handler.addFilter(
        lambda record: (
            "salt_jax" in record.pathname
            or (
                record.levelno >= python_logging.WARNING
                and "/gin/" not in record.pathname
            )
        )
    )
    python_logging.getLogger().handlers = [handler]
    logger = python_logging.getLogger("absl")
    logger.handlers, logger.propagate = [], True
    logging.set_verbosity(logging.INFO)
