"""What can be said on the command line, and what is printed back."""

from __future__ import annotations

import argparse
import logging as python_logging
import re
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from absl import logging

from salt_jax.commands import options

COMMANDS = (
    *("prepare", "score", "select", "train", "evaluate", "export"),
    *("report", "compare", "compile", "generate", "import"),
)
DEFAULT_COMMANDS = ("prepare", "score", "train")  # By what a gin file binds.
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

COMMAND --help lists the options of a command. Without one, a file that binds
config.Experiment trains, config.Scoring scores and prepare.Preparation prepares."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the options that `arguments` give; ends the program if it cannot.

    Beside them `began`, the time on the clock that `time.monotonic` reads.
    """
    began = argparse.Namespace(began=time.monotonic())
    parser = _parser()
    if {"-h", "--help"} & set(arguments):
        _hide_others(parser, next((x for x in arguments if x in COMMANDS), None))
    options = parser.parse_args(_as_bindings(arguments), began)
    _refuse_idle(parser, options)
    return options


def _commands_of(action: argparse.Action) -> list[str]:
    """Returns the commands that look at an option; none if all of them do."""
    of = re.match(r"(\w+(?:, \w+)*): ", action.help or "")
    return of[1].split(", ") if of else []


def _hide_others(parser: argparse.ArgumentParser, command: str | None) -> None:
    """Leaves out of the help what is for other commands than `command`."""
    for action in parser._actions:
        of = _commands_of(action)
        if of and command not in of:
            action.help = argparse.SUPPRESS


def _refuse_idle(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the program if an option is given that the command does not look at.

    An option's help begins with the commands that do, unless all of them do.
    """
    command = {options.command} if options.command else set(DEFAULT_COMMANDS)
    for action in parser._actions:
        of = _commands_of(action)
        if not of or getattr(options, action.dest, None) == action.default:
            continue
        if not command & set(of):
            name = options.command or "a command that is not named"
            parser.error(
                f"{action.option_strings[0]} is for {', '.join(of)}, not for {name}"
            )
    if options.gin_bindings and not options.gin_file:
        parser.error("overrides of a gin file have no effect without --gin_file")


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
    for add_options in options.IN_ORDER:
        add_options(add)
    add(
        "--distributed",
        metavar="auto|HOST:PORT,COUNT,INDEX",
        help="this is one of several processes; auto asks the cluster which",
    )
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
