"""Writes the tables and the curves of docs/recipes.md from finished runs.

Run from the root of the repository, after launch/recipes.sh:
python tests/benchmarks/recipes.py

Each run is a folder SHAPE/FORM_RATE/seed-N/run under runs/recipes. What is not there is
"-" in a table, and no point of a curve.
"""

import json
import math
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from salt_jax.report.arms import in_document
from salt_jax.report.svg import INK, SERIES, new_figure, svg

ROOT = pathlib.Path("runs/recipes")
DOCUMENT = pathlib.Path("docs/recipes.md")
SEEDS = (0, 1, 2)
DEEP = "92x64"  # Its runs log every step.
REFERENCE = "adamw"
CHOSEN = "rel_by_depth_clip"
DRAWN = {  # The forms that are swept in every shape, and how their curves are drawn.
    REFERENCE: ("AdamW", "o", ":"),
    CHOSEN: ("Adafactor, chosen", "D", "-"),
}


def runs(
    shape: str = "*", seed: int = 0
) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yields the shape, the arm and the records of each run."""
    for file in sorted(ROOT.glob(f"{shape}/*/seed-{seed}/run/metrics.jsonl")):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        yield *file.parts[-5:-3], records


def final_losses(seed: int = 0) -> dict[str, dict[str, float]]:
    """Returns the last held-out loss of each complete run, by shape and arm."""
    found: dict[str, dict[str, float]] = {}
    for shape, arm, records in runs(seed=seed):
        losses = [x["val_loss"] for x in records if "val_loss" in x]
        if losses:
            found.setdefault(shape, {})[arm] = losses[-1]
    return found


def best_reference(losses: dict[str, float]) -> float:
    """Returns the least loss of a shape's AdamW runs, however initialized."""
    found = [loss for arm, loss in losses.items() if arm.startswith(REFERENCE)]
    return min(found, default=float("nan"))


def split(arm: str) -> tuple[str, str]:
    """Returns the form and the learning rate in the name of an arm."""
    match = re.fullmatch(r"(.*?)_(\d[\d.]*e-\d)(.*)", arm)
    assert match, arm
    return match[1] + match[3], match[2]


def size(shape: str) -> tuple[int, int]:
    """Returns layers and width of a shape such as 12x128 or 4x128-1000."""
    layers, width, *_ = map(int, re.findall(r"\d+", shape))
    return layers, width


def order(arm: str) -> tuple[int, str, float]:
    """Returns what sorts arms: the forms of `DRAWN` first, each by rate."""
    form, rate = split(arm)
    place = [*DRAWN].index(form) if form in DRAWN else len(DRAWN)
    return place, form, float(rate)


def table(losses: dict[str, dict[str, float]], swept: bool) -> str:
    """Returns losses, and what each is above the shape's best AdamW in percent.

    Args:
      losses: By shape and arm.
      swept: Whether of the forms in `DRAWN`, or of the others.
    """
    arms = {arm for of_shape in losses.values() for arm in of_shape}
    arms = {arm for arm in arms if (split(arm)[0] in DRAWN) == swept}
    shapes = sorted((x for x in losses if arms & losses[x].keys()), key=size)

    def cell(shape: str, arm: str) -> str:
        loss = losses[shape].get(arm)
        if loss is None:
            return "-"
        above = 100 * (loss / best_reference(losses[shape]) - 1)
        return f"{loss:.3f}" + ("" if math.isnan(above) else f" ({above:+.1f})")

    lines = [
        "| form_rate | " + " | ".join(shapes) + " |",
        "|---" + "|--:" * len(shapes) + "|",
    ]
    for arm in sorted(arms, key=order):
        cells = (cell(shape, arm) for shape in shapes)
        lines.append(f"| `{arm}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_of_seeds() -> str:
    """Returns the losses of the arms that were run with several seeds."""
    by_seed = [final_losses(seed) for seed in SEEDS]
    lines = [
        "| shape | form_rate | " + " | ".join(f"seed {x}" for x in SEEDS) + " |",
        "|---|---" + "|--:" * len(SEEDS) + "|",
    ]
    for shape, arms in by_seed[-1].items():
        for arm in sorted(arms, key=order):
            found = " | ".join(f"{losses[shape][arm]:.3f}" for losses in by_seed)
            lines.append(f"| {shape} | `{arm}` | {found} |")
    return "\n".join(lines)


def curves(losses: dict[str, dict[str, float]]) -> bytes:
    """Returns loss against learning rate; colors tell shapes, lines tell forms."""
    figure, axes = new_figure("peak learning rate", "held-out loss", 4.4)
    colors = dict(zip(sorted(losses, key=size), SERIES, strict=False))
    for shape, color in colors.items():
        for form, (_, marker, line) in DRAWN.items():
            points = sorted(
                (float(split(arm)[1]), loss)
                for arm, loss in losses[shape].items()
                if split(arm)[0] == form
            )
            style = {"marker": marker, "linestyle": line, "ms": 4, "lw": 1.2}
            axes.plot(*np.reshape(points, (-1, 2)).T, color=color, **style)
        axes.plot([], [], color=color, label=shape)
    for label, marker, line in DRAWN.values():
        axes.plot([], [], color=INK, marker=marker, linestyle=line, ms=4, label=label)
    axes.set_xscale("log")
    figure.legend(fontsize=7, frameon=False, loc="outside right upper")
    return svg(figure)


def every_step() -> bytes:
    """Returns loss and gradient norm at every step of the deepest shape."""
    figure, axes = new_figure("step", "loss; dotted: gradient norm", 4.0)
    for color, (_, arm, records) in zip(SERIES, runs(DEEP), strict=False):
        steps = [x for x in records if "grad_norm" in x]
        for name, line in (("loss", "-"), ("grad_norm", ":")):
            values = [x[name] for x in steps]
            label = arm if name == "loss" else None
            axes.plot(
                [x["step"] for x in steps],
                values,
                color=color,
                lw=0.8,
                label=label,
                linestyle=line,
            )
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 5, 10, 20, 50], [1, 2, 5, 10, 20, 50])
    axes.legend(fontsize=8, frameon=False)
    return svg(figure)


def main() -> None:
    losses = final_losses()
    in_document.put(DOCUMENT, "recipes", table(losses, swept=True))
    in_document.put(DOCUMENT, "recipes_others", table(losses, swept=False))
    in_document.put(DOCUMENT, "recipes_seeds", table_of_seeds())
    for name, figure in {"rates": curves(losses), "depth": every_step()}.items():
        DOCUMENT.with_name(f"recipes_{name}.svg").write_bytes(figure)


if __name__ == "__main__":
    main()
