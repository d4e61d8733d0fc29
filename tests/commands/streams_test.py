import io
import os
import shlex
import subprocess
import sys

import pytest

from salt_jax.commands.streams import Lossy
from salt_jax.telemetry.metric_writer import read_metrics
from tests import command_files


def shell(line, **options):
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        capture_output=True,
        text=True,
        **options,
    )


def command(*arguments):
    return shlex.join(command_files.command(*arguments))


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection",
    ["2>&1 | head -1", "2>&-", ">/dev/full 2>/dev/full"],
)
def test_a_run_whose_log_cannot_be_written_ends_as_any_other(
    redirection, files, tmp_path
):
    named = [f"--gin_file={files}/baseline.gin", f"--workdir={tmp_path}/run"]
    done = shell(f"{command(*named)} {redirection}")
    assert done.returncode == 0, done.stderr
    steps = [r["step"] for r in read_metrics(tmp_path / "run") if "loss" in r]
    assert steps == list(range(1, 7))
    assert (tmp_path / "run" / "checkpoints" / "6").is_dir()
    assert "Traceback" not in done.stdout + done.stderr


DESCRIBE = command("describe", "--gin_file=gin/tiny_salt_ds.gin")


# More than a pipe holds, so that the command is still writing.
LONG = """
import sys
from salt_jax.commands import describe
from salt_jax.main import main

describe.run = lambda options: print("x\\n" * 10**6) or 0
sys.exit(main(["describe", "--gin_file=gin/tiny_slm.gin"]))
"""


def test_a_command_whose_reader_goes_ends_quietly():
    done = shell(f"{shlex.join([sys.executable, '-c', LONG])} | head -1")
    assert (done.returncode, done.stdout, done.stderr) == (141, "x\n", "")


@pytest.mark.slow
def test_output_that_finds_no_room_is_an_error():
    done = shell(f"{DESCRIBE} >/dev/full")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("salt_jax: ") and "No space left" in line


@pytest.mark.slow
def test_a_refusal_to_nobody_has_its_code():
    named = command("--gin_file=gin/salt.gin")
    assert shell(f"{named} 2>&-").returncode == 2
    assert shell(f"{named} 2>/dev/full").returncode == 2


class Full(io.StringIO):
    """A stream whose disk is full for the first writes."""

    def __init__(self, failures):
        super().__init__()
        self._failures = failures

    def write(self, text):
        if self._failures > 0:
            self._failures -= 1
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_stream_that_recovers_says_what_it_lacks():
    full = Full(2)
    stream = Lossy(full)
    for line in ("a\n", "b\n", "c\n"):
        print(line, end="", file=stream)
    assert full.getvalue().splitlines()[-1] == "c"
    assert "2 writes" in full.getvalue() and "No space left" in full.getvalue()


def test_a_stream_without_a_reader_leads_nowhere():
    read, write = os.pipe()
    with os.fdopen(write, "w") as raw:
        os.close(read)
        stream = Lossy(raw)
        for _ in range(3):
            print("lost", file=stream)
        os.write(raw.fileno(), b"a library writes too")


def test_a_closed_stream_takes_everything():
    for stream in (Lossy(None), Lossy(io.StringIO())):
        print("lost", file=stream)
        assert not stream.isatty() and stream.writable()
