"""What a report says. No sentence takes SALT to be the better one.

Every function turns a comparison into text, or into the HTML of a section.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from typing import Any

from salt_jax.report import page
from salt_jax.report.comparison import PassingPoint, loss_at_flops
from salt_jax.report.runs import Comparison

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def title(comparison: Comparison) -> str:
    """Returns the result in one line."""
    passing = comparison.passing
    if passing is None:
        return "SALT does not reach BASELINE's final loss"
    return (
        f"SALT reaches BASELINE's final loss at {passing.share_of_steps:.0%} of its "
        f"steps and {passing.share_of_flops:.0%} of its FLOPs"
    )


def findings(comparison: Comparison) -> list[str]:
    """Returns the result in sentences, with what it cost."""
    salt, baseline = comparison.curves["SALT"], comparison.curves["BASELINE"]
    gap = salt.losses[-1] - baseline.losses[-1]
    side = "lower" if gap < 0 else "higher"
    said = [
        f"Held-out loss at the end: SALT {salt.losses[-1]:.4f} after "
        f"{salt.steps[-1]:,.0f} steps, BASELINE {baseline.losses[-1]:.4f} after "
        f"{baseline.steps[-1]:,.0f}. SALT's is {abs(gap):.4f} nats per token {side}."
    ]
    if comparison.passing is not None:
        said.append(_where_it_passes(comparison, comparison.passing))
    return [
        *said,
        _at_equal_flops(comparison),
        "This is one run of each: it does not show how far another seed would differ.",
    ]


def _where_it_passes(comparison: Comparison, passing: PassingPoint) -> str:
    total = comparison.baseline.spent("flops")
    billed = (passing.flops + comparison.bill("flops")) / total
    parts = "its training" if comparison.scoring is None else "training and scoring"
    return (
        f"SALT has BASELINE's final loss after {passing.steps:,.0f} steps: "
        f"{passing.share_of_steps:.1%} of BASELINE's steps, "
        f"{passing.share_of_flops:.1%} of its FLOPs and "
        f"{passing.share_of_seconds:.1%} of its training time. With the SLM's bill "
        f"added ({parts}) it is {billed:.1%} of BASELINE's FLOPs."
    )


def _at_equal_flops(comparison: Comparison) -> str:
    salt, baseline = comparison.curves["SALT"], comparison.curves["BASELINE"]
    budget = float(baseline.flops[-1])
    equal = loss_at_flops(salt, budget)
    billed = loss_at_flops(salt, budget - comparison.bill("flops"))
    return (
        f"With the FLOPs of BASELINE, {budget:.3e}: "
        f"BASELINE {baseline.losses[-1]:.4f}, SALT {_loss(equal)}, "
        f"SALT with the SLM's bill added {_loss(billed)}."
    )


def held_out_table(comparison: Comparison, split: str) -> str:
    """Returns the loss of each model in each domain of `split`."""
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
    """Returns the other measures of each model, over all of each split."""
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
    """Returns what each part cost, in FLOPs and in seconds."""
    baseline, salt = comparison.baseline, comparison.salt
    parts = {
        "SLM, training": comparison.slm.spent,
        "Scoring": comparison.spent_scoring,
        "SALT, training": salt.spent,
        "SALT and all it needs": lambda what: salt.spent(what) + comparison.bill(what),
        "BASELINE, training": baseline.spent,
    }
    rows = []
    for name, spent in parts.items():
        flops, seconds = spent("flops"), spent("seconds")
        share = flops / baseline.spent("flops")
        rows.append([name, f"{flops:.3e}", f"{seconds:,.0f}", f"{share:.1%}"])
    header = ["Part", "FLOPs", "Seconds", "of BASELINE's FLOPs"]
    return page.table(header, rows, totals=0)


def settings_tables(comparison: Comparison) -> str:
    """Returns how the experiments differ and, folded, what they share."""
    models = comparison.models
    settings = {name: dict(flat(run.experiment)) for name, run in models.items()}
    names = list(dict.fromkeys(key for each in settings.values() for key in each))
    # Where arrays live decides no number; experiment.json has it.
    names = [name for name in names if "rules." not in name]
    rows = [[key, *(each.get(key, "-") for each in settings.values())] for key in names]
    differ = [row for row in rows if len(set(row[1:])) > 1]
    same = [row[:2] for row in rows if len(set(row[1:])) == 1]
    return "\n".join(
        [
            page.table(["Setting", *models], differ, totals=0),
            page.folded(
                f"{len(same)} settings that all three share",
                page.table(["Setting", "All"], same, totals=0),
            ),
        ]
    )


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields the leaves of nested JSON; an item with a name goes by it."""
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
    """Returns how each model goes on with each beginning of a text."""
    by_prompt: dict[tuple[str, str], dict[str, str]] = {}
    for name, run in comparison.models.items():
        for sample in run.samples:
            begun = (sample["domain"], sample["prompt"])
            by_prompt.setdefault(begun, {})[name] = sample["continuation"]
    parts = []
    for (domain, prompt), continuations in by_prompt.items():
        parts += [page.heading(domain), page.preformatted(prompt)]
        for name, continuation in continuations.items():
            parts += [page.note(f"{name} goes on:"), page.preformatted(continuation)]
    return "\n".join(parts)


def environment_table() -> str:
    """Returns what this process runs on and with."""
    rows = [
        ["Python", platform.python_version()],
        ["System", f"{platform.system()} on {platform.machine()}"],
        ["Processors", f"{os.cpu_count()}"],
    ]
    rows += [[name, importlib.metadata.version(name)] for name in PACKAGES]
    return page.table(["What", "Which"], rows, totals=0)


def _loss(loss: float | None) -> str:
    return "not yet validated" if loss is None else f"{loss:.4f}"
