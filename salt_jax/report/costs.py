"""Sections of a report about each run: its bill, and what it was warned of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from salt_jax.files.bill import Bill, read_bill
from salt_jax.report import page
from salt_jax.symptoms.lookout import FIELD

_PARTS = ("student", "recomputation", "teacher", "loss", "evaluation")


def bills_table(workdirs: Mapping[str, str]) -> str:
    """Returns a table of the bill of each run, by its name.

    Raises:
      ValueError: a bill is damaged.
    """
    bills = {name: read_bill(workdir) for name, workdir in workdirs.items()}
    rows = [
        [name, *(["no bill"] + ["-"] * (len(_PARTS) + 4) if x is None else _cells(x))]
        for name, x in bills.items()
    ]
    header = ["Run", "Devices", "Chip-seconds", *(f"{x}, FLOPs" for x in _PARTS)]
    return page.table([*header, "Rows", "Tokens", "Bytes read"], rows, totals=0)


def _cells(bill: Bill) -> list[str]:
    return [
        f"{bill.devices} x {bill.device_kind}",
        f"{bill.chip_seconds:,.0f}",
        *(f"{bill.flops.get(part, 0):.2e}" for part in _PARTS),
        f"{bill.rows:,}",
        f"{bill.tokens:,}",
        f"{bill.bytes_read:.2e}",
    ]


def warnings(records_by_run: Mapping[str, Any]) -> Iterator[str]:
    """Yields a paragraph for each warning of each run, or says that there is none."""
    for name, records in records_by_run.items():
        yield page.heading(name)
        lines = [
            f"Step {record['step']:,}: {line} ({field.removeprefix(FIELD)})."
            for record in records
            for field, line in record.items()
            if field.startswith(FIELD)
        ]
        yield from map(page.warning, lines)
        if not lines:
            yield page.note("None.")
