"""Figures of the risk against tokens, and of a gradient's bias and variance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from salt_jax.bias_variance.sweep import ONE_HOT
from salt_jax.report.svg import COLORS, INK, new_figure

_DASHES = ((0, ()), (0, (5, 2)), (0, (2, 2)), (0, (1, 3)))


def risk_figure(study: Mapping[str, Any]) -> Figure:
    """Draws the excess risk of each arm against tokens, on logarithmic axes.

    Faint horizontals are the excess risk of the teachers, in the dashes of their
    students.
    """
    figure, axes = new_figure(
        "training tokens of the student", "excess risk: KL(truth, student), nats"
    )
    tokens = study["tokens"]
    axes.set_yscale("log")
    dashes = dict(zip(study["teachers"], _cycled(_DASHES, study), strict=True))
    ends = []
    for arm, risks in study["arms"].items():
        color = COLORS["BASELINE" if arm == ONE_HOT else "SALT"]
        style: dict[str, Any] = {"color": color, "ls": dashes.get(arm, _DASHES[0])}
        axes.plot(tokens, risks["mean"], lw=2, marker="o", ms=3.5, **style)
        for of_seed in risks["by_seed"]:
            axes.plot(tokens, of_seed, lw=0.6, alpha=0.35, **style)
        name = "one-hot labels" if arm == ONE_HOT else f"labels of {arm!r}"
        ends.append((name, color, risks["mean"][-1]))
        if arm in study["teachers"]:
            own = study["teachers"][arm]["excess_risk"]
            axes.axhline(own, color=COLORS["SLM"], lw=0.8, ls=dashes[arm])
    _note_ends(axes, tokens[-1], ends)
    axes.set_xscale("log")
    axes.set_xlim(tokens[0] * 0.9, tokens[-1] * 2.6)
    axes.set_xticks(tokens, [_short(x) for x in tokens])
    axes.minorticks_off()
    return figure


def gradient_figure(measured: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws variance and squared bias of a batch's gradient, student by student."""
    figure, axes = new_figure("student", "squared norm, of a batch's gradient")
    axes.set_yscale("log")
    places = range(len(measured))
    lines = [
        ("variance, one-hot", COLORS["BASELINE"], _DASHES[0], _hot),
        ("variance, teacher", COLORS["SALT"], _DASHES[0], _of("teacher", "variance")),
        ("squared bias, teacher", COLORS["SALT"], _DASHES[2], _bias),
        ("squared mean, one-hot", INK, _DASHES[3], lambda x: x["squared_mean"]),
    ]
    ends = []
    for name, color, dash, value in lines:
        values = [max(value(x), 0.0) or math.nan for x in measured]
        axes.plot(places, values, color=color, ls=dash, lw=2, marker="o", ms=3.5)
        ends.append((name, color, values[-1]))
    known = [end for end in ends if not math.isnan(end[-1])]
    _note_ends(axes, len(measured) - 1, known)
    axes.set_xticks(list(places), [x["student"] for x in measured])
    axes.set_xlim(-0.2, max(len(measured) - 1, 1) * 1.45)
    axes.minorticks_off()
    return figure


def _hot(measured: Mapping[str, Any]) -> float:
    return measured["one_hot"]["variance"]


def _of(labels: str, name: str) -> Any:
    return lambda measured: measured["soft"][labels][name]


def _bias(measured: Mapping[str, Any]) -> float:
    return measured["soft"]["teacher"]["squared_bias"]


def _cycled(items: Sequence[Any], study: Mapping[str, Any]) -> list[Any]:
    return [items[i % len(items)] for i in range(len(study["teachers"]))]


def _short(tokens: float) -> str:
    return f"{tokens / 1e6:.1f}M" if tokens >= 1e6 else f"{tokens / 1e3:.0f}k"


def _note_ends(axes: Axes, x: float, ends: Sequence[tuple[str, str, float]]) -> None:
    """Names lines at their ends, on a logarithmic axis, one name above the other."""
    below = -math.inf
    low, high = (math.log(y) for y in axes.get_ylim())
    for name, color, y in sorted(ends, key=lambda end: end[-1]):
        place = max((math.log(y) - low) / (high - low), below + 0.045)
        below = place
        axes.annotate(
            name,
            (x, math.exp(low + place * (high - low))),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=color,
        )
