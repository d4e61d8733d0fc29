import dataclasses
import json
import os
import signal
import subprocess
import sys

import pytest

from salt_jax.files import lock
from salt_jax.files.lease import Holder, LeaseTimes, LockedError
from salt_jax.files.lock import alone_at, alone_in, holder_of

HOLD = """
import sys, time
from salt_jax.files.lock import alone_in
with alone_in(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path):
    with alone_in(tmp_path), pytest.raises(LockedError) as no, alone_in(tmp_path):
        pass
    assert f"working in {tmp_path} (process {os.getpid()} on " in str(no.value)


def test_a_lock_ends_with_a_process_that_is_killed(tmp_path):
    command = [sys.executable, "-c", HOLD, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(LockedError, match=str(holder.pid)), alone_in(tmp_path):
            pass
        assert holder_of(tmp_path).pid == holder.pid
        holder.send_signal(signal.SIGKILL)
    assert holder_of(tmp_path) is None
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == holder.pid
    with alone_in(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_refused_leaves_that_of_the_holder(tmp_path):
    with alone_in(tmp_path):
        for _ in range(2):
            with pytest.raises(LockedError), alone_in(tmp_path):
                pass


def test_who_holds_a_lock_is_told_without_touching_it(tmp_path):
    assert holder_of(tmp_path) is None
    with alone_in(tmp_path):
        assert holder_of(tmp_path).pid == os.getpid()
    (tmp_path / ".lock").touch()  # Just being written.
    assert holder_of(tmp_path) is None
    elsewhere = dataclasses.replace(Holder.me(), host="elsewhere", pid=2**22 + 1)
    (tmp_path / ".lock").write_text(elsewhere.to_json())
    assert holder_of(tmp_path).host == "elsewhere"


def test_folders_made_for_a_lock_are_removed_unless_something_is_in_them(tmp_path):
    with alone_in(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()
    with alone_in(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [x.name for x in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_an_output_is_locked_by_a_file_beside_it(tmp_path):
    with alone_at(tmp_path / "export"):
        with pytest.raises(LockedError), alone_at(tmp_path / "export"):
            pass
        with alone_at(tmp_path / "other"):
            assert not (tmp_path / "export").exists()
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_has_leases(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    monkeypatch.setattr(lock, "LeaseTimes", lambda: LeaseTimes(settled_after=0.05))
    with alone_in(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"]
    assert not list(tmp_path.iterdir())
