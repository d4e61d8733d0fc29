"""A real run of both stages: its speed, a kill in its middle, and saved steps.

Nothing here touches a device: the commands that do run in processes of their own, one
after another, as a user would type them.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from salt_jax.checkup.run_files import run_options
from salt_jax.checkup.sizes import sizes_of
from salt_jax.checkup.values import (
    Line,
    Setting,
    aim,
    at_most,
    holds,
    measured,
    undone,
)
from salt_jax.storage.checkpoint_reading import SavedCheckpoints
from salt_jax.telemetry.metric_writer import read_metrics

WHOLE, KILLED, LOADED = "whole", "killed", "loaded"  # Run directories.
SAVED = "saved_steps"
_BETWEEN_LOOKS = 0.005  # Seconds.


def run(setting: Setting) -> Iterator[Line]:
    """Trains both stages without a break; yields what its metrics say."""
    seconds = _train(setting, WHOLE)
    yield measured("the command, start to end", seconds, "s")
    records = _records(setting, WHOLE)
    last = records[-1]
    yield measured("compiling both stages", last["compile_seconds"], "s")
    for stage in dict.fromkeys(record["stage"] for record in records):
        # Without the first record, whose steps fill caches and queues.
        of_stage = [x for x in records if x["stage"] == stage][1:]
        for name, unit in (
            ("step_seconds", "s"),
            ("tokens_per_second", "tokens/s"),
            ("mfu", "of the published peak"),
        ):
            found = [x[name] for x in of_stage if name in x]
            if found:
                yield measured(f"{stage}: {name}", statistics.median(found), unit)
            else:
                yield undone(f"{stage}: {name}", "no published peak of this device")
        stall = statistics.median(x["input_stall"] for x in of_stage)
        why = "share of the time of steps that waits for batches; the model is small, "
        why += "so input is asked for faster than by a large one"
        yield aim(f"{stage}: input_stall", stall, 0.0, 0.01, why)
    first = records[0]["loss"]
    yield at_most(
        "loss at the end / at the first record",
        last["ce"] / records[0]["ce"],
        0.98,
        f"it learns: cross-entropy began near {first:.3g}",
    )


def kill_and_resume(setting: Setting) -> Iterator[Line]:
    """Kills the same run in stage one, resumes it, and compares the ends."""
    sizes = sizes_of(setting)
    _clear(setting, KILLED)
    process = _start(setting, KILLED, "train", _train_options(setting, KILLED))
    code = _kill_after(setting, process, sizes.run_save_every)
    steps = _saved(setting, KILLED).all_steps()
    found = f"exit code {code}, checkpoints of steps {', '.join(map(str, steps))}"
    is_killed = (
        code == -signal.SIGKILL and bool(steps) and max(steps) < sizes.run_steps[1]
    )
    yield holds(
        "the run was killed in its middle",
        is_killed,
        found,
        f"exit code {-signal.SIGKILL}, and a checkpoint before the end",
    )
    if not is_killed:
        return
    seconds = _train(setting, KILLED, clear=False)
    yield measured("resuming, start to end", seconds, "s")
    yield measured("restoring", _records(setting, KILLED)[-1]["restore_seconds"], "s")
    yield from _same_as_whole(setting, KILLED)


def saved_steps(setting: Setting) -> Iterator[Line]:
    """Saves compiled steps, trains by them, and compares the ends."""
    folder = setting.folder / SAVED
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    words = [*run_options(setting), "--topology=here", f"--save={folder}"]
    _finish(_start(setting, "save", "compile", words), setting, "save")
    yield measured("compile --save, start to end", time.monotonic() - began, "s")
    size = sum(x.stat().st_size for x in folder.iterdir())
    yield measured("saved steps", size / 2**20, "MiB")
    _train(setting, LOADED, more=[f"--compiled={folder}", "--trust_pickles"])
    for name, what in ((WHOLE, "compiled"), (LOADED, "loaded")):
        last = _records(setting, name)[-1]
        yield measured(f"the run, steps {what}", last["wall_seconds"], "s")
    compiling = _records(setting, LOADED)[-1]["compile_seconds"]
    why = "its steps were loaded"
    yield at_most("compiling in the run that loads", compiling, 0.1, why, unit="s")
    yield from _same_as_whole(setting, LOADED)


def _same_as_whole(setting: Setting, name: str) -> Iterator[Line]:
    """Compares losses and every array of the last checkpoint with the whole run's."""
    losses = [
        {record["step"]: record["loss"] for record in _records(setting, each)}
        for each in (WHOLE, name)
    ]
    steps = sorted(step for step in losses[0] if losses[0][step] != losses[1].get(step))
    found = f"steps {steps} differ" if steps else f"{len(losses[0])} losses are equal"
    yield holds("losses, to the last bit", not steps, found, "all equal")
    end = sizes_of(setting).run_steps[1]
    arrays = []
    for each in (WHOLE, name):
        saved = _saved(setting, each)
        saved.verify_arrays(end)  # What is stored is what was summed.
        arrays.append(saved.record(end).arrays)
    changed = [x for x in arrays[0] if arrays[0][x] != arrays[1].get(x)]
    found = f"{len(changed)} of {len(arrays[0])} differ"
    if changed:
        found += f": {', '.join(changed[:3])}"
    yield holds(
        "parameters and optimizer state, to the last bit",
        arrays[0] == arrays[1],
        found,
        "none differs",
        "by the checksum of each array in the last checkpoint",
    )


def _kill_after(setting: Setting, process: subprocess.Popen, step: int) -> int:
    """Kills a run once it has saved `step` and made later steps; its exit code."""
    while process.poll() is None:
        try:
            is_saved = step in _saved(setting, KILLED).all_steps()
            is_past = is_saved and _records(setting, KILLED)[-1]["step"] > step
        except (FileNotFoundError, IndexError):
            is_past = False
        if is_past:
            process.send_signal(signal.SIGKILL)
            return process.wait()
        time.sleep(_BETWEEN_LOOKS)
    return process.wait()


def _train(
    setting: Setting, name: str, *, clear: bool = True, more: Sequence[str] = ()
) -> float:
    """Trains to the end in the run directory `name`; returns the seconds."""
    if clear:
        _clear(setting, name)
    began = time.monotonic()
    words = [*_train_options(setting, name), *more]
    _finish(_start(setting, name, "train", words), setting, name)
    return time.monotonic() - began


def _train_options(setting: Setting, name: str) -> list[str]:
    return [*run_options(setting), f"--workdir={setting.folder / name}"]


def _start(
    setting: Setting, name: str, command: str, words: Sequence[str]
) -> subprocess.Popen:
    """Starts a command of salt_jax; what it prints is added to its log."""
    environment = dict(os.environ)
    if setting.device.platform == "gpu":
        # Otherwise sums of a GPU depend on the order in which threads come.
        flags = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"
    with open(_log(setting, name), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "salt_jax.main", command, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _finish(process: subprocess.Popen, setting: Setting, name: str) -> None:
    if code := process.wait():
        lines = _log(setting, name).read_text(errors="replace").strip().splitlines()
        said = lines[-1] if lines else "nothing"
        raise RuntimeError(f"{name} ended with exit code {code}: {said}")


def _log(setting: Setting, name: str) -> pathlib.Path:
    return setting.folder / "checks" / f"run_{name}.log"


def _clear(setting: Setting, name: str) -> None:
    shutil.rmtree(setting.folder / name, ignore_errors=True)
    _log(setting, name).unlink(missing_ok=True)


def _saved(setting: Setting, name: str) -> SavedCheckpoints:
    return SavedCheckpoints.of(epath.Path(setting.folder / name / "checkpoints"))


def _records(setting: Setting, name: str) -> list[dict[str, Any]]:
    """Returns the records of training steps."""
    records = read_metrics(epath.Path(setting.folder / name))
    return [record for record in records if "loss" in record]
