"""A figure of a page, with the numbers that it draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath
from matplotlib.figure import Figure

from salt_jax.files.records import write_record
from salt_jax.files.writing import write_file
from salt_jax.report import page
from salt_jax.report.svg import svg


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure and the numbers it draws, both written beside the page."""

    figure: Figure
    numbers: Mapping[str, Any]
    says: str  # The alternative text.
    caption: str

    def write(self, output: epath.PathLike, name: str) -> str:
        """Writes `NAME.svg` and `NAME.json` into a folder; returns the HTML.

        Raises:
          OSError: a file cannot be written.
        """
        content = svg(self.figure)
        write_file(epath.Path(output) / f"{name}.svg", content)
        write_record(epath.Path(output) / f"{name}.json", dict(self.numbers))
        return page.picture(
            content, says=self.says, caption=self.caption, numbers=f"{name}.json"
        )
