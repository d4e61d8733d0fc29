"""Records of the commands of a laboratory that have ended, in the folder done/."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from etils import epath

from salt_jax.files.records import read_record, write_record
from salt_jax.lab.graph import Node


@dataclasses.dataclass(frozen=True, kw_only=True)
class Marker:
    """How a command ended last."""

    node: str
    argv: Sequence[str]  # The arguments of salt_jax.
    code: str  # Digest of the package's source, of `versions.of_code`.
    exit: int  # Negative: ended by this signal.
    seconds: float
    ended_at: float  # Unix time.


def path_of(root: str, name: str) -> epath.Path:
    """Returns the file of a node's marker."""
    return epath.Path(root) / "done" / f"{name}.json"


def log_of(root: str, name: str) -> epath.Path:
    """Returns the file of what a node's command printed."""
    return epath.Path(root) / "done" / f"{name}.log"


def write(root: str, node: Node, *, code: str, exit: int, seconds: float) -> None:
    """Records that a node's command has ended just now.

    Raises:
      OSError: the record cannot be written.
    """
    marker = Marker(
        node=node.name,
        argv=node.argv,
        code=code,
        exit=exit,
        seconds=seconds,
        ended_at=time.time(),
    )
    write_record(path_of(root, node.name), dataclasses.asdict(marker))


def complete(root: str, node: Node) -> Marker | None:
    """Returns the marker of a node that is complete, else None.

    Raises:
      OSError: its marker cannot be read.
      ValueError: another command made what is there, or the marker is damaged.
    """
    path = path_of(root, node.name)
    if not path.exists():
        return None
    remedy = f"remove it; the command of {node.name} then runs again"
    marker = read_record(path, Marker, remedy=remedy)
    if marker.exit != 0:
        return None
    if node.output is not None and not epath.Path(node.output).exists():
        return None
    if list(marker.argv) != list(node.argv):
        had = [word for word in marker.argv if word not in node.argv]
        has = [word for word in node.argv if word not in marker.argv]
        raise ValueError(
            f"{node.name} was made by another command: it had {_words(had)}, and the "
            f"lab has {_words(has)}. Rename it or change the root. To make it anew, "
            f"remove {path} and {node.output or 'its output'}."
        )
    return marker


def _words(words: Sequence[str]) -> str:
    return " ".join(words) or "other words or another order"
