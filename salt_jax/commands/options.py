"""The options of commands that have many of their own.

Each function is given the `add_argument` of a parser. An option's help begins with the
commands that look at it; others refuse it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def add_of_prepare(add: Callable[..., Any]) -> None:
    """Adds the options of prepare."""
    add("--verify", action="store_true", help="prepare: read all that is prepared")
    add(
        "--beam",
        metavar="FLAGS",
        help="prepare: with Apache Beam and its own flags; '' for none",
    )


def add_of_runs(add: Callable[..., Any]) -> None:
    """Adds what says which run, and which step of it."""
    add("--workdir", help="the folder of the run; runs/<gin file's stem> by default")
    add(
        "--accept_change",
        action="append",
        default=[],
        metavar="FIELD",
        help="train: go on although it differs; may be repeated",
    )
    add(
        "--step",
        default="latest",
        help="evaluate, export: a number, latest (the default) or best",
    )
    add("--profile", metavar="START:N", help="train: trace N steps after step START")


def add_of_exports(add: Callable[..., Any]) -> None:
    """Adds what says which parameters, and where and how they are written."""
    add(
        "--export",
        action="append",
        default=[],
        metavar="DIR",
        help="evaluate, generate, export, report: parameters; may be repeated",
    )
    add("--output", help="select, export, import, report, compile, evaluate: where")
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="export, import, generate, evaluate: of what is written, or of what is "
        "computed; by default float32 or as it is",
    )
    add(
        "--format",
        default="salt_jax",
        choices=("salt_jax", "hf"),
        help="export: hf is for Hugging Face, from a run or from --export",
    )
    add("--from", dest="source", metavar="DIR", help="import: of Hugging Face")


def add_of_report(add: Callable[..., Any]) -> None:
    """Adds the options of report and compare."""
    for name in ("baseline", "salt"):
        add(
            f"--{name}",
            action="append",
            default=[],
            metavar="DIR",
            help="report, compare: a workdir; to compare, once a seed",
        )
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


def add_of_compile(add: Callable[..., Any]) -> None:
    """Adds the options of compile, and of train for what it keeps."""
    add("--topology", metavar="v5e:16x16", help="compile: for which devices, or here")
    add("--num_slices", type=int, default=1, metavar="N", help="compile: how many pods")
    add("--programs", metavar="A,B", help="compile: only these")
    add("--json", action="store_true", help="compile: print JSON")
    add(
        "--optimization_level",
        choices=("O0", "O1", "O2", "O3", "train"),
        help="compile: XLA's, or that of train; O0, the fastest check, by default",
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


def add_of_generate(add: Callable[..., Any]) -> None:
    """Adds the options of generate."""
    add("--prompt", metavar="TEXT", help="generate: the beginning of a text")
    add("--prompt_file", metavar="FILE", help="generate: one a line, or JSON lines")
    for name, kind, default, help_ in (
        ("max_new_tokens", _positive, 64, "generate: the most that follow a prompt"),
        (
            "max_length",
            _positive,
            None,
            "generate, evaluate, export: tokens that a model reads; as trained by "
            "default",
        ),
        (
            "batch_size",
            _positive,
            8,
            "generate, evaluate: prompts, or the longest questions, at a time",
        ),
        ("top_k", int, None, "generate: draw from the likeliest N"),
        ("seed", int, 0, "generate: of what is drawn"),
    ):
        add(f"--{name}", type=kind, default=default, metavar="N", help=help_)
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


def add_of_few_shot(add: Callable[..., Any]) -> None:
    """Adds the options of evaluate for few-shot tasks."""
    add("--tasks", metavar="A,B", help="evaluate: few-shot tasks, of each --export")
    add("--num_fewshot", type=int, metavar="N", help="evaluate: examples before each")
    add("--limit", type=_positive, metavar="N", help="evaluate: at most N of each task")
    add("--slices_by", metavar="DIR", help="evaluate: also by how this export does")
    add(
        "--confirm_run_unsafe_code",
        action="store_true",
        help="evaluate: run the code that a model writes for a task",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


IN_ORDER = (
    *(add_of_prepare, add_of_runs, add_of_exports, add_of_report),
    *(add_of_compile, add_of_generate, add_of_few_shot),
)
