"""The figures of a laboratory's page: curves with bands, and intervals by arm.

Each function returns a Matplotlib figure outside pyplot's state; the caller saves it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from salt_jax.report.arms.bands import Band
from salt_jax.report.intervals import Estimate
from salt_jax.report.svg import COLORS, INK, SERIES, new_figure

MOST_LINES = len(SERIES)  # Of one figure.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark:
    """An arm's estimate: a point with its interval."""

    label: str
    estimate: Estimate
    text: str  # Beside the point.
    color: int  # The number of a series.


def curves_figure(
    bands: Mapping[str, Band],
    y_label: str,
    *,
    reference: str = "",
    crop: float = 0.0,
    zero_is: str = "",
) -> Figure:
    """Draws curves against steps, each with the band of its interval.

    Args:
      bands: By arm, at most `MOST_LINES` besides the reference.
      y_label: The title of the y-axis.
      reference: The arm that is drawn in the color of BASELINE, if it is there.
      crop: The share of the steps, from the first, that does not set the y-axis.
      zero_is: What a line at 0 is called; "" for no such line.
    """
    figure, axes = new_figure("steps", y_label)
    colors = iter(SERIES)
    ends: list[tuple[float, str, str]] = []
    right = max(each.steps[-1] for each in bands.values())
    for name, each in bands.items():
        color = COLORS["BASELINE"] if name == reference else next(colors)
        # A line through one point would not be seen.
        marker = "o" if len(each.steps) == 1 else None
        axes.plot(each.steps, each.mean, color=color, lw=1.8, marker=marker)
        if each.low is not None and each.high is not None:
            axes.fill_between(
                each.steps, each.low, each.high, color=color, alpha=0.15, lw=0
            )
        ends.append((each.mean[-1], name, color))
    if zero_is:
        axes.axhline(0.0, color=COLORS["BASELINE"], lw=1, ls=(0, (4, 3)))
        ends.append((0.0, zero_is, COLORS["BASELINE"]))
    axes.set_xlim(0, right * 1.01)
    axes.set_ylim(*_limits(bands.values(), crop * right, with_zero=bool(zero_is)))
    _label_ends(axes, ends)
    return figure


def intervals_figure(
    marks: Sequence[Mark], x_label: str, *, at: float, percent: bool = False
) -> Figure:
    """Draws one row per arm: a point, and its interval as a line.

    Args:
      marks: The arms, the uppermost first.
      x_label: The title of the x-axis.
      at: Where the reference is.
      percent: Whether the x-axis is in percent.
    """
    figure, axes = new_figure(x_label, "", height=1.0 + 0.24 * len(marks))
    for i, mark in enumerate(marks):
        y, color = len(marks) - 1 - i, SERIES[mark.color]
        if mark.estimate.t is not None:
            axes.plot(mark.estimate.t, (y, y), color=color, lw=1.6)
        axes.plot(mark.estimate.mean, y, "o", ms=4.5, color=color)
    axes.axvline(at, color=COLORS["BASELINE"], lw=1, ls=(0, (4, 3)))
    axes.set_xlim(*_reach(marks, at))
    if percent:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(-0.7, len(marks) - 0.3)
    axes.set_yticks(range(len(marks)), [mark.label for mark in marks][::-1])
    axes.grid(axis="y", visible=False)
    for i, mark in enumerate(marks):
        place = (1.01, len(marks) - 1 - i)
        style: dict[str, Any] = {"fontsize": 8, "color": INK, "va": "center"}
        axes.annotate(mark.text, place, xycoords=("axes fraction", "data"), **style)
    return figure


def _reach(marks: Sequence[Mark], at: float) -> tuple[float, float]:
    """Returns the limits of the x-axis: a very wide interval is cut off by them."""
    middle = [mark.estimate.mean for mark in marks] + [at]
    ends = [end for mark in marks for end in mark.estimate.t or ()] + middle
    across = (max(middle) - min(middle)) or 0.1
    low = max(min(ends), min(middle) - across)
    high = min(max(ends), max(middle) + across)
    room = 0.04 * (high - low)
    return low - room, high + room


def _limits(
    bands: Collection[Band], begin: float, *, with_zero: bool
) -> tuple[float, float]:
    """Returns the limits of the y-axis, from what is drawn after step `begin`."""
    values = [0.0] if with_zero else []
    for each in bands:
        shown = np.array(each.steps) >= begin
        values += np.array(each.mean)[shown].tolist()
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or 0.1
    return low - room, high + room


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names each curve to the right of its end, apart from its neighbors."""
    bottom, top = axes.get_ylim()
    ordered = sorted(ends)
    places = _apart([end for end, *_ in ordered], 0.055 * (top - bottom))
    for place, (_, name, color) in zip(places, ordered, strict=True):
        style: dict[str, Any] = {
            "fontsize": 8,
            "weight": "bold",
            "color": color,
            "va": "center",
        }
        at = (1.01, place)
        axes.annotate(name, at, xycoords=("axes fraction", "data"), **style)


def _apart(values: Sequence[float], distance: float) -> list[float]:
    """Returns sorted values moved as little as leaves `distance` between neighbors.

    Neighbors that are too close become a block around the mean of its values.
    """
    blocks: list[list[float]] = []
    centers: list[float] = []
    for value in values:
        blocks.append([value])
        centers.append(value)
        while (
            len(blocks) > 1
            and centers[-1] - centers[-2]
            < distance * (len(blocks[-1]) + len(blocks[-2])) / 2
        ):
            last = blocks.pop()
            blocks[-1] += last
            centers[-2:] = [sum(blocks[-1]) / len(blocks[-1])]
    return [
        center + distance * (i - (len(block) - 1) / 2)
        for block, center in zip(blocks, centers, strict=True)
        for i in range(len(block))
    ]
