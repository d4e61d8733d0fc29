"""Folders that appear under their name when all of them is written, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def unfinished_folder(output: epath.Path) -> Iterator[epath.Path]:
    """Gives the name to write `output` under, and removes it if that fails."""
    unfinished = output.parent / f"{output.name}.unfinished"
    try:
        yield unfinished
    except BaseException:
        unfinished.rmtree(missing_ok=True)
        raise
