"""What the runs themselves counted while they trained: their bills."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from salt_jax.files.bill import Bill, read_bill
from salt_jax.report.arms.laboratory import Laboratory
from salt_jax.report.arms.tables import Table


def bills_table(lab: Laboratory) -> Table | None:
    """Returns the mean bill of the finished runs; None if none of them kept one."""
    found = {
        made.name: [
            bill
            for seed in lab.finished(made.name)
            if (bill := read_bill(lab.runs[made.name, seed].workdir)) is not None
        ]
        for made in (*lab.file.arms, *lab.file.small_models)
    }
    kept = {name: bills for name, bills in found.items() if bills}
    if not kept:
        return None
    parts = list(
        dict.fromkeys(p for x in kept.values() for bill in x for p in bill.flops)
    )
    return Table(
        title="Bills",
        note="Means over the finished runs, each as it counted while it trained: all "
        "attempts, validation and recomputation included. Chip-seconds are of its own "
        "clock, with whatever else the machine did: compare times in Costs.",
        header=[
            *("Run", "Runs", "Chip-seconds", "Tokens", "Bytes read"),
            *(f"{part}, FLOPs" for part in parts),
        ],
        rows=[_row(name, bills, parts) for name, bills in kept.items()],
    )


def _row(name: str, bills: Sequence[Bill], parts: Sequence[str]) -> list[str]:
    counted: Mapping[str, Sequence[float]] = {
        "chip_seconds": [bill.chip_seconds for bill in bills],
        "tokens": [bill.tokens for bill in bills],
        "bytes_read": [bill.bytes_read for bill in bills],
    }
    cells = [f"{np.mean(values):,.0f}" for values in counted.values()]
    flops = [np.mean([bill.flops.get(part, 0) for bill in bills]) for part in parts]
    return [name, f"{len(bills)}", *cells, *(f"{each:.2e}" for each in flops)]
