"""Warnings about a selection, before anything of it is read."""

from __future__ import annotations

from collections.abc import Mapping

from salt_jax.symptoms.watch import Watch

STARVED_DOMAIN = "starved_domain"
_SMALLEST = 0.01  # Of the data: a smaller domain may lose its few sequences by chance.
_MOST_NAMED = 5


def starved_domain(counts: Mapping[str, tuple[int, int]], watch: Watch) -> str | None:
    """Finds domains whose share of a selection is far below their share of the data.

    Args:
      counts: The sequences of each domain: in all, and those that are kept.
      watch: The thresholds.
    """
    whole, kept = (sum(x[i] for x in counts.values()) for i in (0, 1))
    lines = []
    for name, (had, has) in sorted(counts.items(), key=lambda item: -item[1][0]):
        before, now = had / max(whole, 1), has / max(kept, 1)
        if before >= _SMALLEST and now < watch.domain_share * before:
            lines.append(f"{name} {before:.1%} of the data and {now:.1%} of it")
    if not lines:
        return None
    more = [f"{len(lines) - _MOST_NAMED} more"] if len(lines) > _MOST_NAMED else []
    listed = ", ".join([*lines[:_MOST_NAMED], *more])
    return f"the selection starves {len(lines)} domains: {listed}"
