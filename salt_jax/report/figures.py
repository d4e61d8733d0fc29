"""The figures of a report.

Each function returns a Matplotlib figure outside pyplot's state; the caller saves it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from salt_jax.report.curves import LossCurve, PassingPoint, smooth
from salt_jax.report.svg import COLORS, FAINT, INK, new_figure

# The loss axis starts after this share of BASELINE's steps: the initial fall of the
# loss would hide all differences.
SHOWN_FROM = 0.08


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
    """The x-axis of a loss curve."""

    name: str  # A field of `LossCurve` and of `PassingPoint`.
    title: str
    noun: str  # Completes "at 80 % of its ...".
    unit: float = 1.0  # Divides the numbers.

    def scaled_to(self, largest: float) -> Spent:
        """Returns the axis in units of a power of 10**3, if the numbers are large."""
        power = 3 * int(np.log10(largest) // 3)
        if power < 6:
            return self
        exponent = str(power).translate(_SUPERSCRIPTS)
        title = f"{self.title} / 10{exponent}"
        return dataclasses.replace(self, title=title, unit=10.0**power)


_SUPERSCRIPTS = str.maketrans(
    "0123456789",
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079",
)
SPENT = {
    "steps": Spent(name="steps", title="steps", noun="steps"),
    "flops": Spent(name="flops", title="FLOPs", noun="FLOPs"),
    "seconds": Spent(
        name="seconds", title="steps x measured step time, seconds", noun="step time"
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """The curves of two runs, by the names "SALT" and "BASELINE"."""

    curves: Mapping[str, LossCurve]  # Held-out losses.
    training: Mapping[str, LossCurve]
    passing: PassingPoint | None
    transition: int | None  # The last step of SALT's first stage.

    def describe(self) -> dict[str, Any]:
        """Returns the numbers as JSON types."""
        return {
            "held_out": {name: x.describe() for name, x in self.curves.items()},
            "training": {name: x.describe() for name, x in self.training.items()},
            "passing": self.passing and dataclasses.asdict(self.passing),
            "transition_step": self.transition,
        }


def loss_figure(runs: Runs, spent: Spent, *, bill: float = 0.0) -> Figure:
    """Draws held-out and training loss of both runs against steps, FLOPs or seconds.

    Args:
      runs: The curves to draw.
      spent: The x-axis.
      bill: The cost of the SLM and its scores, in the unit of the x-axis; above 0, a
        second SALT curve is shifted by it.
    """
    right = max(curve.spent(spent.name)[-1] for curve in runs.curves.values())
    spent = spent.scaled_to(right + bill)
    figure, axes = new_figure(spent.title, "loss, nats per token")
    baseline, salt = runs.curves["BASELINE"], runs.curves["SALT"]
    for name, curve in runs.curves.items():
        _draw_training(axes, runs.training[name], spent, COLORS[name])
        x = curve.spent(spent.name) / spent.unit
        axes.plot(x, curve.losses, color=COLORS[name], lw=2, marker="o", ms=3.5)
    if bill:
        x = (salt.spent(spent.name) + bill) / spent.unit
        axes.plot(x, salt.losses, color=COLORS["SALT"], lw=1, ls=(0, (2, 2)))
    axes.axhline(baseline.losses[-1], color=COLORS["BASELINE"], lw=0.8, ls=(0, (4, 3)))
    axes.set_xlim(0, (right + bill) / spent.unit * 1.01)
    bottom, top = _loss_limits(runs.curves)
    axes.set_ylim(bottom, top)
    _label_curves(axes, runs, spent, bill)
    _mark_transition(axes, runs, spent)
    _mark_passing(axes, runs.passing, baseline.losses[-1], spent)
    return figure


def kl_figure(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws the KL from teacher to student over the distillation steps."""
    figure, axes = new_figure("steps", "KL to the teacher, nats per token")
    taught = [record for record in records if "kl" in record]
    steps = np.array([record["step"] for record in taught])
    kl = np.array([record["kl"] for record in taught], float)
    window = max(1, len(kl) // 40)
    axes.plot(steps, kl, color=COLORS["SALT"], lw=0.7, alpha=0.35)
    axes.plot(steps, smooth(kl, window), color=COLORS["SALT"], lw=2)
    axes.set_xlim(0, steps[-1] * 1.12)
    axes.set_ylim(0, float(smooth(kl, window).max()) * 1.05)
    end = smooth(kl, window)[-1]
    style = {"va": "center", "color": COLORS["SALT"], "weight": "bold"}
    _note(axes, f"{end:.2f}", (steps[-1], end), (6, 0), **style)
    return figure


def domains_figure(bits_per_byte: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draws one bar per model and domain.

    Args:
      bits_per_byte: Bits per byte by model and domain. Domains are sorted by the first
        model's values.
    """
    models = list(bits_per_byte)
    order = sorted(bits_per_byte[models[0]], key=bits_per_byte[models[0]].__getitem__)
    thick = 0.8 / len(models)
    figure, axes = new_figure(
        "bits per byte (lower is better)", "", height=0.8 + 0.45 * len(order)
    )
    for i, model in enumerate(models):
        values = [bits_per_byte[model][domain] for domain in order]
        y = np.arange(len(order)) + thick * ((len(models) - 1) / 2 - i)
        axes.barh(y, values, thick * 0.9, color=COLORS[model])
        for value, place in zip(values, y, strict=True):
            is_first = place > len(order) - 1.5
            text = f"{value:.3f}  {model}" if is_first else f"{value:.3f}"
            style = {"va": "center", "fontsize": 7, "color": COLORS[model]}
            _note(axes, text, (value, place), (3, 0), **style)
    axes.set_yticks(np.arange(len(order)), order)
    axes.tick_params(axis="y", length=0)
    axes.margins(y=0.01)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    axes.grid(visible=False)
    return figure


def _draw_training(axes: Axes, curve: LossCurve, spent: Spent, color: str) -> None:
    window = max(1, len(curve.losses) // 40)
    x = curve.spent(spent.name) / spent.unit
    axes.plot(x, smooth(curve.losses, window), color=color, lw=0.8, alpha=0.3)


def _loss_limits(curves: Mapping[str, LossCurve]) -> tuple[float, float]:
    """Returns the limits of the loss axis."""
    baseline = curves["BASELINE"]
    shown = baseline.steps >= SHOWN_FROM * baseline.steps[-1]
    top = max(baseline.losses[shown])
    bottom = min(min(curve.losses) for curve in curves.values())
    room = 0.06 * (top - bottom) or 0.1
    return bottom - 4 * room, top + room


def _label_curves(axes: Axes, runs: Runs, spent: Spent, bill: float) -> None:
    """Labels each curve at its end, the upper one above and the lower one below."""
    ends = {name: curve.losses[-1] for name, curve in runs.curves.items()}
    for name, loss in ends.items():
        upper = loss == max(ends.values())
        x = runs.curves[name].spent(spent.name)[-1] / spent.unit
        style = {"weight": "bold", "fontsize": 9, "color": COLORS[name]}
        style |= {"va": "bottom" if upper else "top"}
        # With a bill the axis extends beyond the ends, so labels fit to their right.
        style |= {"ha": "left" if bill else "right"}
        by = (6, 1 if upper else -1) if bill else (0, 13 if upper else -10)
        _note(axes, f"{name} {loss:.3f}", (x, loss), by, **style)
    if bill:
        salt = runs.curves["SALT"]
        middle = np.argmin(np.abs(salt.losses - np.mean(axes.get_ylim())))
        x = (salt.spent(spent.name)[middle] + bill) / spent.unit
        at = (x, salt.losses[middle])
        _note(axes, "SALT with the SLM's bill", at, (6, 3), color=COLORS["SALT"])


def _mark_transition(axes: Axes, runs: Runs, spent: Spent) -> None:
    if runs.transition is None:
        return
    salt = runs.curves["SALT"]
    at = np.interp(runs.transition, salt.steps, salt.spent(spent.name))
    axes.axvline(at / spent.unit, color=FAINT, lw=0.8)
    top = ("data", "axes fraction")
    _note(axes, "teacher leaves", (at / spent.unit, 1), (4, -2), xycoords=top, va="top")


def _mark_passing(
    axes: Axes, passing: PassingPoint | None, loss: float, spent: Spent
) -> None:
    if passing is None:
        return
    at = (getattr(passing, spent.name) / spent.unit, loss)
    share = getattr(passing, f"share_of_{spent.name}")
    text = f"SALT has BASELINE's final loss\nat {share:.0%} of its {spent.noun}"
    axes.plot(*at, "o", ms=9, mfc="none", mec=INK, mew=1.2)
    # The area below and to the left of a falling curve is empty.
    side = {"ha": "right"} if share > 0.4 else {"ha": "left"}
    _note(axes, text, at, (-12, -16), va="top", **side)


def _note(axes: Axes, text: str, at: tuple, by: tuple, **style: Any) -> None:
    """Writes `text` at an offset of `by` [points] from a position on the axes."""
    defaults: dict[str, Any] = {"fontsize": 8, "color": INK}
    axes.annotate(text, at, by, textcoords="offset points", **defaults | style)
