"""The report of `compile`, as a table and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from salt_jax.compiling.advice import advice
from salt_jax.compiling.collectives import KINDS, total_bytes
from salt_jax.compiling.compile import Report
from salt_jax.compiling.inspected import Inspected
from salt_jax.compiling.prediction_rows import in_words, prediction_sections
from salt_jax.compiling.roofline import LossTiling, matmul_seconds, memory_seconds
from salt_jax.mesh.chips import Chip
from salt_jax.mesh.memory import GIB
from salt_jax.model.flops import FlopsBill

_Cell = Callable[[Inspected], float | None]


def render(report: Report) -> str:
    """Returns the report as a table; the last line says whether the run fits."""
    names = [one.planned.name for one in report.inspected]
    lines = [f"{report.topology}; mesh {_mesh(report)}.", "", _row("", names)]
    kernels = ["+".join(one.attention) or "-" for one in report.inspected]
    lines.append(_row("attention", kernels))
    for title, rows in _sections(report):
        lines.append(title)
        for label, cell in rows:
            cells = [cell(one) for one in report.inspected]
            if any(cells):
                written = [_number(x) for x in cells]
                lines.append(_row(f"  {label}", written))
    if report.restore is not None:
        restore = report.restore
        lines += [
            "",
            f"A checkpoint has {restore.num_arrays} arrays, "
            f"{restore.total_bytes / GIB:.2f} GiB. To restore it, a host reads "
            f"{restore.bytes_per_host / GIB:.2f} GiB and a chip holds "
            f"{restore.bytes_per_chip / GIB:.2f} GiB.",
        ]
    lines += _about_losses(report)
    lines.append(_about_seconds(report))
    lines += in_words(report.inspected)
    return "\n".join([*lines, verdict(report)])


def verdict(report: Report) -> str:
    """Returns one line: whether the run fits, and suggestions if it does not."""
    largest, available = report.largest, report.topology.available / GIB
    needed = largest.needed / GIB
    if report.fits:
        return f"fits: {needed:.2f} of {available:.2f} GiB ({largest.planned.name})"
    return (
        f"does not fit: {needed:.2f} of {available:.2f} GiB "
        f"({largest.planned.name}); try {advice(report)}"
    )


def as_json(report: Report) -> dict[str, Any]:
    """Returns the report as JSON, in bytes, FLOPs and seconds."""
    return {
        "topology": report.topology.name,
        "num_slices": report.topology.num_slices,
        "chips": len(report.topology.devices),
        "mesh": dict(report.mesh_shape),
        "usable_bytes_per_chip": report.topology.available,
        "optimization_level": report.optimization_level,
        "fits": report.fits,
        "verdict": verdict(report),
        "programs": {
            one.planned.name: _program(one, report) for one in report.inspected
        },
        "restore": report.restore and dataclasses.asdict(report.restore),
    }


def _program(one: Inspected, report: Report) -> dict[str, Any]:
    planned, chip = one.planned, report.topology.chip
    loss = planned.loss
    return {
        "fits": one.fits,
        "bytes_held": dict(planned.held),
        "bytes_made_by_formula": dict(planned.made),
        "bytes_beside": dict(planned.beside),
        "bytes_temporaries": _temporaries(one),
        "bytes_peak": one.peak,
        "attention": list(one.attention),
        "tokens_per_chip": planned.tokens_per_chip,
        "flops_per_token": dataclasses.asdict(planned.flops)
        | {"total": planned.flops.total},
        "matmul_seconds": matmul_seconds(
            planned.flops.total * planned.tokens_per_chip, chip
        ),
        "loss": None if loss is None else _loss(loss, chip, one.planned.num_losses),
        "prediction": one.prediction and one.prediction.as_json(),
        "collectives": [dataclasses.asdict(moved) for moved in one.collectives],
        "lower_seconds": one.lower_seconds,
        "compile_seconds": one.compile_seconds,
    }


def _loss(loss: LossTiling, chip: Chip | None, times: int) -> dict[str, Any]:
    """Returns the sizes of a loss, and the cost of `times` such losses."""
    flops = times * loss.matmul_flops
    embedding, logits = times * loss.embedding_traffic, times * loss.logits_traffic
    return dataclasses.asdict(loss) | {
        "num_losses": times,
        "num_chunks": loss.num_chunks,
        "matmul_flops": flops,
        "embedding_traffic": embedding,
        "logits_traffic": logits,
        "matmul_seconds": matmul_seconds(flops, chip),
        "embedding_seconds": memory_seconds(embedding, chip),
        "logits_seconds": memory_seconds(logits, chip),
    }


def _sections(report: Report) -> list[tuple[str, list[tuple[str, _Cell]]]]:
    memory: list[tuple[str, _Cell]] = [
        (name, _gib("held", name))
        for name in ("parameters", "optimizer", "average", "teacher")
    ]
    memory += [
        ("temporaries", lambda one: _temporaries(one) / GIB),
        ("  of them gradients", _gib("made", "gradients")),
        ("  saved activations", _gib("made", "saved activations")),
        ("  logits of a chunk", _gib("made", "logits")),
        ("peak", lambda one: one.peak / GIB),
        ("of other programs", lambda one: sum(one.planned.beside.values()) / GIB),
    ]
    flops: list[tuple[str, _Cell]] = [
        (field.name.replace("_", " "), _flops(field.name))
        for field in dataclasses.fields(FlopsBill)
    ]
    flops.append(("total", lambda one: one.planned.flops.total / 1e9))
    moved = [
        (f"{kind}{', across slices' if across else ''}", _moved(kind, across))
        for across in (False, True)
        for kind in KINDS
    ]
    seconds: list[tuple[str, _Cell]] = [
        ("lowering", lambda one: one.lower_seconds),
        ("compiling", lambda one: one.compile_seconds),
    ]
    return [
        ("GiB a chip", memory),
        ("GFLOP a token, by formula", flops),
        ("ms a step, by formula, at peak rates", _times(report)),
        *prediction_sections(),
        ("GiB a chip sends a step", moved),
        ("seconds", seconds),
    ]


def _times(report: Report) -> list[tuple[str, _Cell]]:
    chip = report.topology.chip

    def matmul(one: Inspected) -> float | None:
        return _ms(
            matmul_seconds(one.planned.flops.total * one.planned.tokens_per_chip, chip)
        )

    def loss(seconds: Callable[[Any, Any], float | None], name: str) -> _Cell:
        def cell(one: Inspected) -> float | None:
            tiling = one.planned.loss
            if tiling is None:
                return None
            return _ms(seconds(one.planned.num_losses * getattr(tiling, name), chip))

        return cell

    return [
        ("all products", matmul),
        ("the loss's products", loss(matmul_seconds, "matmul_flops")),
        ("its embeddings, memory", loss(memory_seconds, "embedding_traffic")),
        ("its logits, memory", loss(memory_seconds, "logits_traffic")),
    ]


def _about_losses(report: Report) -> list[str]:
    """Returns what computes the loss of each program, and why it is not a kernel."""
    by: dict[str, list[str]] = {}
    for one in report.inspected:
        if one.planned.loss is not None:
            kernel = one.planned.loss_kernel
            why = "" if kernel.obstacle is None else f": {kernel.obstacle}"
            by.setdefault(f"{kernel.name}{why}", []).append(one.planned.name)
    return [f"Loss of {', '.join(names)} by {what}." for what, names in by.items()]


def _about_seconds(report: Report) -> str:
    if report.optimization_level is None:
        return "Compiled without a cache, as train does."
    return (
        f"Compiled without a cache at optimization level {report.optimization_level}, "
        "lower than that of train: for a fit check only, without a predicted time."
    )


def _temporaries(one: Inspected) -> int:
    return max(one.peak - sum(one.planned.held.values()), 0)


def _gib(field: str, name: str) -> _Cell:
    def cell(one: Inspected) -> float | None:
        size = getattr(one.planned, field).get(name)
        return None if size is None else size / GIB

    return cell


def _flops(name: str) -> _Cell:
    return lambda one: getattr(one.planned.flops, name) / 1e9


def _moved(kind: str, across: bool) -> _Cell:
    def cell(one: Inspected) -> float | None:
        if one.compiled is None:
            return None
        return total_bytes(one.collectives, kind, across_slices=across) / GIB

    return cell


def _number(x: float | None) -> str:
    """Returns a number with three significant digits; whole from 100 on."""
    if x is None:
        return "-"
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _mesh(report: Report) -> str:
    return " x ".join(f"{name}={size}" for name, size in report.mesh_shape.items())


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{label:<28}" + "".join(f"{cell:>12}" for cell in cells)
