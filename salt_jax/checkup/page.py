"""The page of a check: a verdict, a table of checks, and all that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from salt_jax.checkup.running import Result
from salt_jax.checkup.values import BELOW, FAILED, PASSED, UNDONE, Line
from salt_jax.report import page


def render(about: Mapping[str, Any], results: Sequence[Result]) -> str:
    """Returns the page of the results so far.

    Args:
      about: The fields of the JSON file.
      results: The results, in order.
    """
    device = about["device"]
    return page.document(
        f"Accelerator check: {device['count']} x {device['kind']}",
        *_verdict(about, results),
        *_in_short(results),
        page.section("Checks", _checks(results), page.note(_LEGEND)),
        *(_measured(result) for result in results if result.lines or result.why),
        page.folded_section("Versions and command", *_origin(about)),
    )


def line_of(result: Result) -> str:
    """Returns a result as one line of text."""
    counts = _counts(result.lines)
    said = ", ".join(f"{counts[x]} {x}" for x in (FAILED, BELOW, UNDONE) if counts[x])
    parts = [f"{result.state:<12}{result.seconds:4.0f} s  {result.title}"]
    parts += [part for part in (said, result.why) if part]
    return "; ".join(parts)


FIRST_FIGURES = (
    "bfloat16 products",
    "memory, read and written",
    "distill: step",
    "standard: step",
    "distill: MFU",
    "standard: MFU",
    "stage one / plain, FLOPs",
    "stage one / plain, time",
    "distill: step / time predicted from the schedule",
    "standard: step / time predicted from the schedule",
    "measured / predicted memory",
    "chunked / dense, time",
    "chunked / dense, memory",
    "distill: tokens_per_second",
    "distill: input_stall",
    "1 rows: tokens per second",
    "losses, to the last bit",
    "parameters and optimizer state, to the last bit",
)
_LONG = 16  # Lines; more are folded. Those that failed stand at the top of the page.
_LEGEND = (
    "A check fails if one of its lines does. An aim that is missed is no failure: aims "
    "are what this code should reach, and were set before it ran on such a device. "
    "What this device cannot do is listed with the reason."
)


def _verdict(about: Mapping[str, Any], results: Sequence[Result]) -> list[str]:
    bad = [result for result in results if result.state != PASSED]
    below = sum(_counts(result.lines)[BELOW] for result in results)
    total = len(results) + len(about["waiting"])
    said = f"{len(results) - len(bad)} of {total} checks passed"
    said += f" in {about['seconds']:.0f} s of {about['budget_seconds']:.0f} s, on "
    said += f"{about['host']}."
    if below:
        said += f" {below} aims were missed."
    parts = [page.paragraph(said)]
    if about["small"]:
        parts.append(
            page.warning(
                "Small sizes: this tries the check itself. Its times say nothing about "
                "the device."
            )
        )
    for result in bad:
        parts.append(page.warning(f"{result.title}: {result.state}. {result.why}"))
        parts += [
            page.warning(f"{line.what}: {_value(line)}, {line.expected}")
            for line in result.lines
            if line.verdict == FAILED
        ]
    if not about["finished"]:
        waiting = ", ".join(about["waiting"]) or "nothing"
        parts.append(page.warning(f"Not finished: {waiting} waits."))
    return parts


def _in_short(results: Sequence[Result]) -> list[str]:
    """Returns the figures that one asks for first."""
    lines = {line.what: line for result in results for line in result.lines}
    rows = [
        [what, _value(lines[what]), lines[what].expected or "-"]
        for what in FIRST_FIGURES
        if what in lines and lines[what].measured is not None
    ]
    table = page.table(["Figure", "Measured", "Expected"], rows, totals=0)
    return [page.section("In short", table)] if rows else []


def _checks(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        counts = _counts(result.lines)
        rows.append(
            [
                result.title,
                result.state,
                *(f"{counts[x] or '-'}" for x in (PASSED, FAILED, BELOW, UNDONE)),
                f"{result.seconds:.0f}",
            ]
        )
    header = ["Check", "Verdict", "Passed", "Failed", "Below aim", "Not done", "s"]
    return page.table(header, rows, totals=0)


def _measured(result: Result) -> str:
    rows = [
        [line.what, _value(line), line.expected or "-", line.verdict]
        for line in result.lines
    ]
    parts = [page.warning(f"{result.state}: {result.why}")] if result.why else []
    if rows:
        header = ["What", "Measured", "Expected", "Verdict"]
        table = page.table(header, rows, totals=0)
        is_long = len(rows) > _LONG
        parts.append(page.folded(f"{len(rows)} lines", table) if is_long else table)
    reasons = dict.fromkeys(_reason(line) for line in result.lines if line.why)
    if reasons:
        parts.append(page.folded("Reasons", *map(page.note, reasons)))
    return page.section(result.title, *parts)


def _reason(line: Line) -> str:
    """Returns why a line is as it is; a tolerance of many lines is said once."""
    is_shared = line.verdict in (PASSED, FAILED) and line.expected.startswith("at ")
    return line.why if is_shared else f"{line.what}: {line.why}"


def _origin(about: Mapping[str, Any]) -> list[str]:
    rows = [[name, version] for name, version in about["versions"].items()]
    rows += [["code", about["code"]], ["began", about["began"]]]
    return [
        page.table(["Package", "Version"], rows, totals=0),
        page.copyable(about["command"]),
        page.link("check.json", "All numbers (JSON)"),
    ]


def _value(line: Line) -> str:
    if line.measured is None:
        return "-"
    if isinstance(line.measured, str):
        return f"{line.measured} {line.unit}".strip()
    x = line.measured
    text = f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"
    return f"{text} {line.unit}".strip()


def _counts(lines: Sequence[Line]) -> dict[str, int]:
    verdicts = [line.verdict for line in lines]
    return {x: verdicts.count(x) for x in (PASSED, FAILED, BELOW, UNDONE)}
