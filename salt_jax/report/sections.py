"""Tables of a report: loss, cost, step times, settings, samples and environment."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from typing import Any

from salt_jax.report import page
from salt_jax.report.comparison import Comparison
from salt_jax.report.summary import NOT_MEASURED

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def held_out_table(comparison: Comparison, split: str) -> str:
    """Returns a table of the loss of each model by domain of `split`."""
    models = comparison.models
    domains = sorted(comparison.salt.domains(split))
    rows = [
        _loss_row(domain, [run.domains(split)[domain] for run in models.values()])
        for domain in domains
    ]
    rows.append(_loss_row("All", [run.total(split) for run in models.values()]))
    header = ["Domain", "Tokens", *models, "SALT - BASELINE"]
    return page.table(header, rows, totals=1)


def _loss_row(name: str, measures: Sequence[Any]) -> list[str]:
    baseline, salt, slm = (measure["loss"] for measure in measures)
    losses = [f"{loss:.4f}" for loss in (baseline, salt, slm)]
    return [name, f"{measures[0]['tokens']:,}", *losses, f"{salt - baseline:+.4f}"]


def measures_table(comparison: Comparison) -> str:
    """Returns a table of loss, perplexity, bits per byte and accuracy by split."""
    rows = []
    for split in comparison.salt.evaluation["splits"]:
        for name, run in comparison.models.items():
            total = run.total(split)
            rows.append(
                [
                    f"{split}, {name}",
                    f"{total['loss']:.4f}",
                    f"{total['perplexity']:.2f}",
                    f"{total['bits_per_byte']:.4f}",
                    f"{total['accuracy']:.2%}",
                ]
            )
    header = ["Split, model", "Loss", "Perplexity", "Bits per byte", "Accuracy"]
    return page.table(header, rows, totals=0)


def bill_table(comparison: Comparison) -> str:
    """Returns a table of the cost of each part: FLOPs, step time and own clock."""
    costs = {
        f"{name}, training": _Cost(
            run.spent("flops"), comparison.seconds_of(run), run.spent("seconds")
        )
        for name, run in comparison.models.items()
    }
    whole = costs.pop("BASELINE, training")
    if comparison.scoring is not None:
        costs["Scoring"] = _Cost(
            comparison.scoring_flops,
            comparison.scoring_seconds,
            float(comparison.scoring["seconds"]),
        )
    costs["SALT and all it needs"] = sum(costs.values(), _Cost(0.0, 0.0, 0.0))
    costs["BASELINE, training"] = whole
    rows = [
        [
            name,
            f"{cost.flops:.2e}",
            f"{cost.flops / whole.flops:.1%}",
            _or_unknown(cost.seconds, "{:,.0f}"),
            _or_unknown(_ratio(cost.seconds, whole.seconds), "{:.1%}"),
            f"{cost.own_seconds:,.0f}",
        ]
        for name, cost in costs.items()
    ]
    header = ["Part", "FLOPs", "of BASELINE", "Step time, s", "of BASELINE"]
    return page.table([*header, "Own clock, s"], rows, totals=0)


@dataclasses.dataclass(frozen=True)
class _Cost:
    flops: float
    seconds: float | None  # At measured step times.
    own_seconds: float  # By the run's own clock.

    def __add__(self, other: _Cost) -> _Cost:
        known = self.seconds is not None and other.seconds is not None
        return _Cost(
            self.flops + other.flops,
            (self.seconds or 0.0) + (other.seconds or 0.0) if known else None,
            self.own_seconds + other.own_seconds,
        )


def step_times_table(comparison: Comparison) -> str:
    """Returns a table of step times, ratios to the plain update, and noise."""
    if comparison.clock is None:
        return page.note(NOT_MEASURED)
    rows = []
    for update in comparison.clock.updates:
        low, high = update["quartiles"]
        ratio = update["ratio_to_plain"]
        rows.append(
            [
                update["name"],
                f"{update['median']:.3g} s",
                f"{low:.3g} to {high:.3g}",
                f"{ratio['median']:.2f}",
                "{:.2f} to {:.2f}".format(*ratio["quartiles"]),
                f"{update['coefficient_of_variation']:.0%}",
                f"{update['blocks']}",
            ]
        )
    header = ["Update", "Step time", "quartiles", "of plain", "quartiles", "Variation"]
    return page.table([*header, "Blocks"], rows, totals=0)


def own_clocks_table(comparison: Comparison) -> str:
    """Returns a table of each run's time by step times and by its own clock."""
    rows = []
    for name, run in comparison.models.items():
        own, expected = run.spent("seconds"), comparison.seconds_of(run)
        ratio = _or_unknown(_ratio(own, expected), "{:.2f}")
        seconds = _or_unknown(expected, "{:,.0f}")
        wall = f"{run.wall_seconds:,.0f}"
        rows.append([name, f"{run.steps:,}", seconds, f"{own:,.0f}", ratio, wall])
    header = ["Run", "Steps", "Steps x step time, s", "In steps, own clock, s", "Ratio"]
    return page.table([*header, "Wall-clock, s"], rows, totals=0)


def _ratio(value: float | None, whole: float | None) -> float | None:
    return None if value is None or whole is None else value / whole


def _or_unknown(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


def settings_tables(comparison: Comparison) -> str:
    """Returns the settings that differ between runs and, folded, the shared ones."""
    models = comparison.models
    settings = {name: dict(flat(run.experiment)) for name, run in models.items()}
    names = list(dict.fromkeys(key for each in settings.values() for key in each))
    # Axis rules do not affect results; experiment.json has them.
    names = [name for name in names if "rules." not in name]
    rows = [[key, *(each.get(key, "-") for each in settings.values())] for key in names]
    differ = [row for row in rows if len(set(row[1:])) > 1]
    same = [row[:2] for row in rows if len(set(row[1:])) == 1]
    return "\n".join(
        [
            page.table(["Setting", *models], differ, totals=0),
            page.folded(
                f"{len(same)} shared settings",
                page.table(["Setting", "All"], same, totals=0),
            ),
        ]
    )


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the dotted path and the value of each leaf of nested JSON.

    Items of a list are indexed by their name, if they have one.
    """
    if isinstance(value, dict):
        items = [(key, x) for key, x in value.items() if key != "name"]
    elif isinstance(value, list):
        items = [
            (x.get("name", i) if isinstance(x, dict) else i, x)
            for i, x in enumerate(value)
        ]
    else:
        yield prefix, str(value)
        return
    for key, item in items:
        yield from flat(item, f"{prefix}.{key}" if prefix else str(key))


def samples(comparison: Comparison) -> str:
    """Returns the continuation of each prompt by each model."""
    by_prompt: dict[tuple[str, str], dict[str, str]] = {}
    for name, run in comparison.models.items():
        for sample in run.samples:
            begun = (sample["domain"], sample["prompt"])
            by_prompt.setdefault(begun, {})[name] = sample["continuation"]
    parts = []
    for (domain, prompt), continuations in by_prompt.items():
        parts += [page.heading(domain), page.preformatted(prompt)]
        for name, continuation in continuations.items():
            parts += [page.note(f"{name}:"), page.preformatted(continuation)]
    return "\n".join(parts)


def environment_table() -> str:
    """Returns a table of the system and the package versions of this process."""
    rows = [
        ["Python", platform.python_version()],
        ["System", f"{platform.system()} on {platform.machine()}"],
        ["Processors", f"{os.cpu_count()}"],
    ]
    rows += [[name, importlib.metadata.version(name)] for name in PACKAGES]
    return page.table(["Item", "Version"], rows, totals=0)
