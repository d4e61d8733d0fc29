"""The domains of the sequences that a stage reads, counted by their scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from salt_jax.data.reading.rows import SequenceStream
from salt_jax.data.scoring.scores import Scores


def domain_counts(data: Any, rows: Any) -> Iterator[dict[str, tuple[int, int]]]:
    """Yields the sequences of each domain, scored and kept, of each selection.

    A selection without `scores`, a user's, is passed over: its domains are unknown
    without reading all of its sequences.

    Args:
      data: The data of a stage; a mixture has `parts`.
      rows: What it opened.
    """
    if parts := getattr(data, "parts", ()):
        for part, rows_of_part in zip(parts, rows.parts, strict=True):
            yield from domain_counts(part, rows_of_part)
        return
    path = getattr(getattr(data, "selection", None), "scores", None)
    stream: SequenceStream | None = getattr(rows, "stream", None)
    if path is None or stream is None or stream.ids is None:
        return
    names = stream.dataset.manifest.domains
    domains = Scores.open(path, stream.dataset).column("domain")
    whole, kept = (
        np.bincount(some, minlength=len(names)).tolist()
        for some in (domains, domains[stream.ids])
    )
    yield dict(zip(names, zip(whole, kept, strict=True), strict=True))
