"""Show where a run is: step, speed, time by part, checkpoint, warnings.

It reads the files in the run directory, and starts no device: ask it of a run that is
going, from any machine that sees the directory, or of one that died.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from salt_jax.commands.options import positive

if TYPE_CHECKING:
    from salt_jax.telemetry.status import Status

EXAMPLES = """\
  salt_jax status runs/salt_2p8b
  salt_jax status gs://bucket/runs/salt_2p8b --json"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of status."""

    run: str
    json: bool = False
    warnings: int = 5


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of status."""
    group = parser.add_argument_group("run")
    group.add_argument("run", metavar="RUN", help="run directory, as train's --workdir")
    group.add_argument(
        "--warnings",
        type=positive,
        metavar="N",
        help="last warnings to show (default: %(default)s)",
    )
    group.add_argument("--json", action="store_true", help="print JSON instead")


def run(options: Options) -> int:
    """Prints the status.

    Raises:
      FileNotFoundError: no run was started there.
      ValueError: its experiment.json is damaged.
    """
    from salt_jax.telemetry.status import read_status

    status = read_status(options.run)
    kept = status.warnings[-options.warnings :]
    status = dataclasses.replace(status, warnings=kept)
    if options.json:
        print(json.dumps(status.as_json(), indent=2))
        return 0
    for label, text in _lines(status):
        print(f"{label:<12}{text}")
    return 0


def _lines(status: Status) -> Iterator[tuple[str, str]]:
    share = status.step / max(status.total_steps, 1)
    yield "run", status.run
    yield "state", _state(status)
    yield (
        "step",
        f"{status.step:,} of {status.total_steps:,} ({share:.1%}), "
        f"stage {status.stage!r}",
    )
    for stage, decision in status.ended.items():
        yield "ended", f"stage {stage!r} at {decision}"
    if status.losses:
        yield "loss", ", ".join(f"{k} {v:.4f}" for k, v in status.losses.items())
    if status.speed:
        yield "speed", _speed(status)
    if status.goodput is not None:
        parts = sorted(status.parts.items(), key=lambda part: -part[1])
        total = sum(status.parts.values())
        shown = [f"{name} {x / total:.1%}" for name, x in parts if x]
        yield "time", f"{_duration(total)}: {', '.join(shown)}"
    if (bill := status.bill) is not None:
        parts = sorted(bill.flops.items(), key=lambda part: -part[1])
        whole = max(bill.total_flops, 1)
        shown = [f"{name} {x / whole:.1%}" for name, x in parts if x]
        yield (
            "bill",
            f"{bill.chip_seconds / 3600:,.2f} hours x chips ({bill.devices} x "
            f"{bill.device_kind}), {bill.total_flops:.3g} FLOPs: {', '.join(shown)}; "
            f"{bill.bytes_read / 1e6:,.1f} MB read",
        )
    saved = status.checkpoint
    yield (
        "checkpoint",
        f"step {saved.step:,}, {_duration(saved.age_seconds)} ago" if saved else "none",
    )
    if status.left_seconds and not status.is_complete:
        yield "left", _duration(status.left_seconds)
    if status.skipped_updates:
        yield "skipped", f"{status.skipped_updates:,} updates"
    for warned in status.warnings:
        yield warned["level"].lower(), f"{_when(warned['time'])} {warned['message']}"


def _state(status: Status) -> str:
    if (holder := status.holder) is not None:
        state = (
            f"process {holder.pid} on {holder.host} works on it since {holder.started}"
        )
    else:
        state = "complete" if status.is_complete else "no process works on it"
    if status.record_age_seconds is None:
        return f"{state}; no step was recorded yet"
    return f"{state}; last recorded {_duration(status.record_age_seconds)} ago"


def _speed(status: Status) -> str:
    speed = status.speed
    facts = [
        f"{speed['step_seconds']:.3g} s a step",
        f"{speed['tokens_per_second']:,.0f} tokens/s",
        f"stall {speed['input_stall']:.1%}",
    ]
    if "mfu" in speed:
        facts.append(f"MFU {speed['mfu']:.1%}")
    return ", ".join(facts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02}:{seconds:02}"
    return f"{days} d {clock}" if days else clock


def _when(seconds: float) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
