"""Describe what gin files resolve to: stages, parameters, schedules and FLOPs.

Nothing is read but the gin files, and no array is allocated: any experiment can be
described on a laptop. Works for training, scoring, preparation and laboratories.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from salt_jax.commands.facts import (
    amount,
    facts_of,
    mesh_text,
    section,
    table,
    value_text,
)
from salt_jax.commands.options import GinOptions, add_gin
from salt_jax.lab.description import lab_sections

EXAMPLES = """\
  salt_jax describe --gin_file=salt_2p8b.gin
  salt_jax describe --gin_file=salt_2p8b.gin --gin.N_KD=20_000 --json"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(GinOptions):
    """The options of describe."""

    json: bool = False


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of describe."""
    add_gin(parser)
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print JSON")


def run(options: Options) -> int:
    """Prints the description.

    Raises:
      FileNotFoundError: a gin file is missing.
      ValueError: gin cannot read it, or a value is refused.
    """
    from salt_jax.training.description import describe

    description = describe(options.load_any())
    if options.json:
        print(json.dumps(description, indent=2, default=repr))
    else:
        print("\n".join(lines_of(description)))
    return 0


def lines_of(description: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines that show a description to people."""
    yield description["kind"]
    if description["kind"] == "Experiment":
        yield from _experiment(description)
    elif description["kind"] == "Scoring":
        yield from _scoring(description)
    elif description["kind"] == "Lab":
        for title, of in lab_sections(description):
            yield from section(title, [(name, value_text(x)) for name, x in of])
    else:
        facts = {k: v for k, v in description.items() if k not in ("kind", "type")}
        title = "Corpus" if description["kind"] == "Preparation" else "Study"
        yield from section(
            title, [(k, value_text(v)) for k, v in facts.items() if v is not None]
        )


def _experiment(of: Mapping[str, Any]) -> Iterator[str]:
    yield from section("Student", _model(of["student"], of["initial_export"]))
    yield from table(
        "Stages",
        ("stage", "from", "to", "tokens", "FLOPs", "teacher"),
        [*map(_stage_row, of["stages"]), _total_row(of["total"])],
    )
    for stage in of["stages"]:
        yield from section(f"Stage {stage['name']}", _stage(stage))
    yield from table(
        "Schedules (after so many steps)",
        ("after step", "stage", "learning rate", "kd_weight"),
        [
            (
                f"{at['step']:,}",
                at["stage"],
                f"{at['learning_rate']:.4g}",
                "-" if at["kd_weight"] is None else f"{at['kd_weight']:.4g}",
            )
            for at in of["schedules"]
        ],
    )
    yield from section("Run", _run(of))


def _stage_row(stage: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        stage["name"],
        f"{stage['begin_step']:,}",
        f"{stage['end_step']:,}",
        amount(stage["tokens"]),
        f"{stage['flops']:.3g}",
        "yes" if stage["teacher"] else "no",
    )


def _total_row(total: Mapping[str, Any]) -> tuple[str, ...]:
    steps, tokens = f"{total['steps']:,}", amount(total["tokens"])
    return ("total", "0", steps, tokens, f"{total['flops']:.3g}", "")


def _stage(stage: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = facts_of("data", stage["data"])
    if stage["leave"] != {"type": "AtEnd"}:
        facts += facts_of("ends", stage["leave"])
    if (teacher := stage["teacher"]) is None:
        return facts
    return [
        *facts,
        ("teacher", teacher["export"]),
        *(("  " + name, text) for name, text in _model(teacher)),
        ("  temperature", str(teacher["temperature"])),
        *facts_of("  kd_weight", teacher["kd_weight"]),
        *facts_of("  tokens", teacher["tokens"]),
        ("  real_vocab_size", str(teacher["real_vocab_size"] or "as predicted")),
    ]


def _run(of: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = of["num_microbatches"]
    split = f", in {parts} microbatches" if parts > 1 else ""
    saved, validation = of["checkpoints"], of["validation"]
    steps = "".join(f", step {step:,}" for step in saved["keep_steps"])
    best = ", the best" if validation else ""
    facts = [
        *_batch(of, split),
        *facts_of("optimizer", of["optimizer"]),
        *(facts_of("guard", of["guard"]) if of["guard"] else ()),
        *(facts_of("average", of["average"]) if of["average"] else ()),
        *(("left out", f"batches {a:,} to {b - 1:,}") for a, b in of["skip_batches"]),
        ("mesh", mesh_text(of["mesh"])),
        ("checkpoints", f"every {saved['save_every']:,} steps"),
        ("  kept", f"the latest {saved['max_to_keep']}{best}{steps}"),
        ("seed", str(of["seed"])),
    ]
    if validation is None:
        return [*facts, ("validation", "none")]
    rows = f"{validation['num_sequences']:,} rows"
    every = f"every {validation['every']:,} steps, on {rows}"
    return [*facts, ("validation", every), *facts_of("  data", validation["data"])]


def _batch(of: Mapping[str, Any], split: str) -> Iterator[tuple[str, str]]:
    """Yields the size of a batch; for a ramp a line for each size."""
    size = of["batch_size"]
    for first, rows in [(0, size)] if isinstance(size, int) else size["sizes"]:
        tokens = f"{rows * of['seq_len']:,} tokens"
        since = f", from step {first + 1:,}" if first else ""
        largest = rows * of["seq_len"] == of["tokens_per_step"]
        yield (
            "batch",
            f"{rows:,} rows x {of['seq_len']:,} tokens = {tokens}"
            f"{split * largest}{since}",
        )


def _scoring(of: Mapping[str, Any]) -> Iterator[str]:
    scorer = of["scorer"]
    yield from section("Scorer", [("export", scorer["export"]), *_model(scorer)])
    pool = "all" if of["pool"] is None else f"the first {of['pool']:,}"
    flops = "" if of["flops"] is None else f", {of['flops']:.3g} in total"
    yield from section(
        "Run",
        [
            *facts_of("data", of["data"]),
            ("sequences", f"{pool}, of {of['seq_len']:,} tokens"),
            ("FLOPs", f"{of['flops_per_sequence']:.3g} a sequence{flops}"),
            ("ks", ", ".join(map(str, of["ks"]))),
            ("output", of["output"]),
            ("batch", f"{of['batch_size']:,} sequences in each process"),
            ("mesh", mesh_text(of["mesh"])),
        ],
    )


def _model(of: Mapping[str, Any], start: Any = None) -> list[tuple[str, str]]:
    config, params = of["config"], of["params"]
    shape = (
        f"{config['num_layers']} layers of {config['embed_dim']:,}, "
        f"{config['num_heads']} heads ({config['num_kv_heads']} key-value) of "
        f"{config['head_dim']}, feed-forward {config['mlp_dim']:,}, vocabulary "
        f"{config['vocab_size']:,}"
    )
    facts = [
        ("parameters", amount(params["total"])),
        *(("  " + part, amount(n)) for part, n in params.items() if part != "total"),
        ("shape", shape),
        ("computes in", config["dtype"]),
    ]
    if "held_dtype" in of:
        facts.append(("held in", of["held_dtype"]))
    return facts if start is None else [*facts, *facts_of("starts from", start)]
