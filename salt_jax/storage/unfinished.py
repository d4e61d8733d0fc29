"""Directories that get their name once they are complete."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def unfinished_folder(output: epath.Path) -> Iterator[epath.Path]:
    """Yields the temporary path to write `output` under; removes it on an error."""
    unfinished = output.parent / f"{output.name}.unfinished"
    try:
        yield unfinished
    except BaseException:
        unfinished.rmtree(missing_ok=True)
        raise
