"""The pictures of a selection, drawn from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from salt_jax.report.svg import COLORS, FAINT, INK, new_figure

MOST_DOMAINS = 40  # That are drawn; a table has all.
_KEPT = COLORS["SALT"]


def histogram_figure(counts: Mapping[str, Sequence[float]], x_label: str) -> Figure:
    """Draws how many sequences were kept, and how many not, by a number of theirs.

    Args:
      counts: Of each bin "kept" and "left_out"; the bins' "edges", one more.
      x_label: What the number is.
    """
    figure, axes = new_figure(x_label, "sequences")
    edges = np.array(counts["edges"])
    kept, left_out = np.array(counts["kept"]), np.array(counts["left_out"])
    style: dict[str, Any] = {"width": np.diff(edges), "align": "edge", "linewidth": 0}
    axes.bar(edges[:-1], kept, color=_KEPT, label="kept", **style)
    axes.bar(edges[:-1], left_out, bottom=kept, color=FAINT, label="left out", **style)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.05 * (kept + left_out).max())
    # Above the axes: bars may be anywhere in them.
    above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2}
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, **above)
    return figure


def domains_figure(domains: Sequence[Mapping[str, Any]], overall: float) -> Figure:
    """Draws the share that was kept of each domain, the largest domain on top.

    Args:
      domains: Of each its name, "domain", and its "kept_share".
      overall: The share that was kept of all, where a line is drawn.
    """
    shown = domains[:MOST_DOMAINS][::-1]
    figure, axes = new_figure(
        "share of the scored sequences that is kept", "", height=0.9 + 0.25 * len(shown)
    )
    shares = [domain["kept_share"] for domain in shown]
    bars = axes.barh(range(len(shown)), shares, 0.7, color=_KEPT)
    axes.axvline(overall, color=INK, lw=0.8, ls=(0, (4, 3)))
    style: dict[str, Any] = {"padding": 3, "fontsize": 7, "color": INK}
    axes.bar_label(bars, [f"{x:.0%}" for x in shares], **style)
    axes.set_yticks(range(len(shown)), [domain["domain"] for domain in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlim(0, 1.08)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
    axes.grid(visible=False)
    return figure
