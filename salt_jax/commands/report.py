"""The commands report and compare."""

from __future__ import annotations

import argparse

from salt_jax.report.fine_tuned import fine_tuned_table, is_fine_tuned
from salt_jax.report.seeds import Pair, seeds_table
from salt_jax.report.write import write_report


def report(options: argparse.Namespace) -> None:
    """Writes the page about one run of each.

    Raises:
      FileNotFoundError: something that it is about is missing.
      ValueError: an option is, or there are several runs.
    """
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


def compare(options: argparse.Namespace) -> None:
    """Prints the table of several seeds.

    Raises:
      FileNotFoundError: a run is missing.
      ValueError: runs do not make pairs, or cannot be compared.
    """
    if not options.baseline or len(options.baseline) != len(options.salt):
        raise ValueError(
            "compare needs --baseline=DIR and --salt=DIR, once a seed each; got "
            f"{len(options.baseline)} and {len(options.salt)}."
        )
    pairs = zip(options.baseline, options.salt, strict=True)
    read = [Pair.read(*pair) for pair in pairs]
    answered = {
        is_fine_tuned(run) for pair in read for run in (pair.baseline, pair.salt)
    }
    if len(answered) > 1:
        raise ValueError(
            "compare takes runs that were all fine-tuned, or none of them."
        )
    print(fine_tuned_table(read) if True in answered else seeds_table(read))
