import dataclasses
import json
import os
import threading

import pytest
from etils import epath

from salt_jax.files.lease import Holder, LeaseTimes, LockedError, leased

QUICK = LeaseTimes(renewed_every=0.05, ends_after=0.5, settled_after=0.05)


@pytest.fixture
def path(tmp_path):
    return epath.Path(tmp_path) / "lease"


def test_a_lease_that_is_renewed_is_refused_to_others(path):
    with (
        leased(path, "run", QUICK),
        pytest.raises(LockedError, match=str(os.getpid())),
        leased(path, "run", QUICK),
    ):
        pass
    assert not path.exists()


def test_a_lease_of_a_dead_process_is_taken_over_once_it_has_ended(path):
    dead = dataclasses.replace(Holder.me(), pid=1)
    path.write_text(dead.to_json())
    with leased(path, "run", QUICK):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_of_two_that_take_a_lease_at_once_one_gets_it(path):
    held, refused, release = [], [], threading.Event()

    def take():
        try:
            with leased(path, "run", dataclasses.replace(QUICK, settled_after=0.3)):
                held.append(1)
                release.wait(20)
        except LockedError:
            refused.append(1)
            release.set()

    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 1)


def test_a_process_whose_lease_was_taken_is_told(path):
    told = threading.Event()
    with leased(path, "run", QUICK, lost=lambda message: told.set()):
        other = dataclasses.replace(Holder.me(), pid=1)
        path.write_text(other.to_json())
        assert told.wait(20)
    assert json.loads(path.read_text())["pid"] == 1
