"""Report a BASELINE and a SALT run side by side, as HTML.

The runs must have been evaluated.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

from salt_jax.commands.outputs import command_line
from salt_jax.files.lock import alone_at

EXAMPLES = """\
  salt_jax report --baseline=runs/baseline --salt=runs/salt --slm=runs/slm \\
      --scores=/scores/slm_1p5b --output=runs/report"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of report."""

    baseline: Sequence[str]
    salt: Sequence[str]
    slm: str
    output: str
    scores: str | None = None
    step_times: str | None = None
    few_shot: str | None = None
    fine_tuned: Sequence[str] = ()
    export: Sequence[str] = ()

    def __post_init__(self):
        if len(self.baseline) > 1 or len(self.salt) > 1:
            raise ValueError(
                f"report takes one --baseline and one --salt, got {len(self.baseline)} "
                f"and {len(self.salt)}; compare takes several."
            )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of report."""
    runs = parser.add_argument_group("runs (required)")
    for name, action, whose in (
        ("baseline", "append", "the student trained alone"),
        ("salt", "append", "the student with a teacher"),
        ("slm", "store", "the small model"),
    ):
        runs.add_argument(
            f"--{name}",
            action=action,
            required=True,
            metavar="DIR",
            help=f"run directory of {whose}",
        )
    group = parser.add_argument_group("page")
    group.add_argument(
        "--output", required=True, metavar="DIR", help="where to write (required)"
    )
    group.add_argument(
        "--scores", metavar="DIR", help="scores that the selection ranked by"
    )
    group.add_argument(
        "--step_times",
        metavar="FILE",
        help="what time_steps wrote (default: time is not compared)",
    )
    group.add_argument("--few_shot", metavar="DIR", help="what evaluate --tasks wrote")
    group.add_argument(
        "--fine_tuned",
        action="append",
        metavar="DIR",
        help="run directory of a fine-tuned student; repeatable",
    )
    group.add_argument(
        "--export",
        action="append",
        metavar="DIR",
        help="export to list with its size; repeatable",
    )


def run(options: Options) -> int:
    """Writes the page.

    Raises:
      FileNotFoundError: something that it is about is missing.
      ValueError: the runs cannot be compared.
    """
    from salt_jax.report.write import write_report

    with alone_at(options.output):
        page = write_report(
            options.output,
            baseline=options.baseline[0],
            salt=options.salt[0],
            slm=options.slm,
            scores=options.scores,
            step_times=options.step_times,
            few_shot=options.few_shot,
            fine_tuned=options.fine_tuned,
            exports=options.export,
            command=command_line("report", options),
        )
    print(f"The report is {page}.")
    return 0
