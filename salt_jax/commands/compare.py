"""Compare BASELINE and SALT over several seeds.

The table has means, standard errors and 95 % intervals over seeds. Give the run
directories in pairs: the first --baseline and the first --salt have one seed, and so
on. The runs must have been evaluated; all were fine-tuned, or none.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

EXAMPLES = """\
  salt_jax compare --baseline=runs/seeds/baseline-0 --salt=runs/seeds/salt_ds-0 \\
      --baseline=runs/seeds/baseline-1 --salt=runs/seeds/salt_ds-1"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of compare."""

    baseline: Sequence[str] = ()
    salt: Sequence[str] = ()

    def __post_init__(self):
        if not self.baseline or len(self.baseline) != len(self.salt):
            raise ValueError(
                "compare needs a --baseline=DIR and a --salt=DIR for each seed, got "
                f"{len(self.baseline)} and {len(self.salt)}."
            )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of compare."""
    group = parser.add_argument_group("runs (required)")
    for name, whose in (
        ("baseline", "a student trained alone"),
        ("salt", "a student with a teacher"),
    ):
        group.add_argument(
            f"--{name}",
            action="append",
            metavar="DIR",
            help=f"run directory of {whose}; repeatable, once for each seed",
        )


def run(options: Options) -> int:
    """Prints the table.

    Raises:
      FileNotFoundError: a run is missing.
      ValueError: the runs cannot be compared.
    """
    from salt_jax.report.fine_tuned import fine_tuned_table, is_fine_tuned
    from salt_jax.report.seeds import Pair, seeds_table

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
    return 0
