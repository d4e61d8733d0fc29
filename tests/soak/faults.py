"""What happens to one process of a job is told by all others, within seconds.

python tests/soak/faults.py [--processes=2,4] [--kinds=killed,frozen] prints seconds by
kind of fault; it exits with 1 if a process was late, silent, or without an exit code of
its own.
"""

import argparse
import pathlib
import signal
import sys
import tempfile
import time

from tests import hosts, runs
from tests.hosts import FAULTS, Fault, JobOf

LIMIT = {"frozen": 60.0}  # [s]
OTHERWISE = 30.0
AT_STEP = 2


def meet(kind, count, victim, files, folder):
    """Runs a job with one fault; returns seconds until the last other one ended.

    Raises:
      AssertionError: a process did not end as declared.
    """
    _, own_code, code = FAULTS[kind]
    limit = LIMIT.get(kind, OTHERWISE)
    fault = Fault(kind=kind, victim=victim, step=AT_STEP)
    started = JobOf(count=count, workdir=folder / "run", files=files, fault=fault)
    others = [i for i in range(count) if i != victim]
    try:
        deadline = time.time() + 180.0
        while not started.faulted_at.exists() and time.time() < deadline:
            ended = started.wait(0.1, among=[victim])
            assert not ended or started.faulted_at.exists(), printed(started)
        assert started.wait(limit + 10.0, among=others), printed(started)
        # Who was frozen hears of the end when it is woken.
        started.signal(victim, signal.SIGCONT)
        assert started.wait(30.0), printed(started)
    finally:
        started.end()
    codes = {i: own_code if i == victim else code for i in range(count)}

    assert started.codes == codes, (started.codes, codes, printed(started))
    for index in others:
        said = started.last_lines(index)
        assert len(said) == 1, printed(started)
        assert "Traceback" not in started.logs[index].read_text(), printed(started)
        if kind not in ("terminated", "interrupted"):
            assert f"process {victim} (" in said[0], said
    faulted = float(started.faulted_at.read_text())
    seconds = max(started.ended_at[i] for i in others) - faulted
    assert seconds < limit, (seconds, limit, printed(started))
    return seconds


def printed(started):
    """Returns what all processes printed."""
    said = []
    for index, log in enumerate(started.logs):
        lines = log.read_text().splitlines() if log.exists() else []
        shown = [line for line in lines if "Gloo" not in line][-30:]
        said += [f"-- process {index}: {started.codes.get(index)}", *shown]
    return "\n".join(said)


def never_joined(count, files, folder):
    """Starts all processes but the last; returns seconds until the others ended."""
    started = JobOf(
        count=count,
        workdir=folder / "run",
        files=files,
        join_seconds=8.0,
        absent=(count - 1,),
    )
    assert started.wait(60.0), printed(started)
    assert set(started.codes.values()) == {75}, printed(started)
    for index in started.pids:
        (said,) = started.last_lines(index)
        assert f"process {count - 1} has not joined" in said, said
        assert f"{count - 1} of {count}" in said, said
    return max(started.ended_at.values()) - started.began - 8.0


def main(arguments=None):
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", default="2")
    parser.add_argument("--kinds", default=",".join([*FAULTS, "never joins"]))
    parser.add_argument("--count", type=int, default=1, help="ignored: one of each")
    parser.add_argument("--seed", type=int, default=0, help="ignored: none is drawn")
    options = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        hosts.in_a_fork(lambda: runs.make_files(folder))
        print(f"{'kind':<14}{'processes':>10}{'victim':>8}{'seconds':>9}")
        for count in map(int, options.processes.split(",")):
            for kind in options.kinds.split(","):
                victims = [count - 1] if kind == "never joins" else [0, count - 1]
                for victim in victims:
                    where = folder / f"{kind}-{count}-{victim}".replace(" ", "-")
                    try:
                        if kind == "never joins":
                            seconds = never_joined(count, folder, where)
                        else:
                            seconds = meet(kind, count, victim, folder, where)
                        said = f"{seconds:.1f}"
                    except AssertionError as error:
                        failed += 1
                        said = f"FAILED: {error}"
                    print(f"{kind:<14}{count:>10}{victim:>8}{said:>9}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
