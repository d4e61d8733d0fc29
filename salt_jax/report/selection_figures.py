"""The figures of a selection report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from salt_jax.report.svg import COLORS, FAINT, INK, new_figure

MOST_DOMAINS = 40  # The number of domains drawn; the table has all.
_KEPT = COLORS["SALT"]


def histogram_figure(counts: Mapping[str, Sequence[float]], x_label: str) -> Figure:
    """Draws a histogram of the sequences kept and left out.

    Args:
      counts: Counts per bin, "kept" and "left_out", and the "edges" of the bins.
      x_label: The label of the x-axis.
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
    # Above the axes, because bars may cover any part of them.
    above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2}
    axes.legend(frameon=False, fontsize=8, labelcolor=INK, **above)
    return figure


def domains_figure(domains: Sequence[Mapping[str, Any]], overall: float) -> Figure:
    """Draws the share kept of each domain, the largest domain on top.

    Args:
      domains: The "domain" name and the "kept_share" of each domain.
      overall: The share kept overall, drawn as a line.
    """
    shown = domains[:MOST_DOMAINS][::-1]
    figure, axes = new_figure(
        "share of scored sequences kept", "", height=0.9 + 0.25 * len(shown)
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
