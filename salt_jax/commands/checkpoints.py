"""List the checkpoints of a run, and check them.

Every array is read and its checksum compared; --quick reads only the records and the
index. Training may go on meanwhile. The exit code is 1 if a checkpoint is damaged.
"""

from __future__ import annotations

import argparse
import dataclasses
import json

EXAMPLES = """\
  salt_jax checkpoints runs/mine
  salt_jax checkpoints --quick --json runs/mine"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of checkpoints."""

    run: str
    quick: bool = False
    json: bool = False


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of checkpoints."""
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--quick", action="store_true", help="read only the records and the index"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: Options) -> int:
    """Prints a line for each checkpoint.

    Raises:
      FileNotFoundError: there is no such run.
      OSError: the storage failed.
    """
    from etils import epath

    from salt_jax.storage.checkpoint_list import list_checkpoints, table

    folder = epath.Path(options.run) / "checkpoints"
    listed = list_checkpoints(folder, quick=options.quick)
    if options.json:
        print(json.dumps([dataclasses.asdict(x) for x in listed], indent=2))
    else:
        print(table(listed) if listed else f"No checkpoints in {folder} yet.")
    return int(any(x.is_damaged for x in listed))
