"""Figures as SVG files that follow the reader's light or dark theme.

Figures are drawn in the light colors of `PALETTE`; in the file each color becomes a CSS
variable that depends on the theme.
"""

from __future__ import annotations

import io
import re

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colors in a light and a dark theme. SALT and BASELINE also differ in lightness, for
# color-blind readers and for grayscale print.
PALETTE = {
    "page": ("#ffffff", "#15181b"),
    "ink": ("#333333", "#d8d8d6"),
    "faint": ("#b8b8b8", "#70767c"),
    "grid": ("#ececec", "#2b3035"),
    "salt": ("#0b5f8a", "#6db8e0"),
    "baseline": ("#c2571a", "#f0915a"),
    "slm": ("#8c8c8c", "#9b9b99"),
    # Arms of one figure. Neighbors differ in lightness too.
    "arm1": ("#0a5e89", "#6eb7df"),
    "arm2": ("#3a9d5d", "#58c47e"),
    "arm3": ("#7b3f9d", "#c490e4"),
    "arm4": ("#b8860b", "#e3bb4e"),
    "arm5": ("#a32250", "#f07fa5"),
    "arm6": ("#5b7fd1", "#8fa8ec"),
    "arm7": ("#4f5d2f", "#aabf7c"),
    "arm8": ("#d07ab8", "#e8a9d6"),
}
SERIES = [light for name, (light, _) in PALETTE.items() if name.startswith("arm")]
COLORS = {name: PALETTE[name.lower()][0] for name in ("SALT", "BASELINE", "SLM")}
INK, FAINT, GRID = (PALETTE[name][0] for name in ("ink", "faint", "grid"))


def new_figure(x_label: str, y_label: str, height: float = 3.6) -> tuple[Figure, Axes]:
    """Returns an empty figure of `height` inches, and its axes."""
    figure = Figure(figsize=(5.4, height), layout="constrained")
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8, color=FAINT)
    axes.grid(axis="y", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_label, fontsize=9, color=INK)
    axes.set_ylabel(y_label, fontsize=9, color=INK)
    return figure, axes


def svg(figure: Figure) -> bytes:
    """Returns the figure as an SVG file; equal figures give equal bytes.

    Text stays text, with a halo in the color of the page.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "salt_jax"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    for name, (light, _) in PALETTE.items():
        text = text.replace(light, f"var(--{name})")
    text = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "system-ui, sans-serif", text)
    begin = text.index(">", text.index("<svg")) + 1
    return (text[:begin] + _style() + text[begin:]).encode()


def _style() -> str:
    light, dark = (
        " ".join(f"--{name}: {colors[i]};" for name, colors in PALETTE.items())
        for i in range(2)
    )
    return (
        f"\n<style>:root {{ {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        "text { paint-order: stroke; stroke: var(--page); stroke-width: 3px; "
        "stroke-linejoin: round; }</style>\n"
    )
