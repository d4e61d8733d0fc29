import itertools
import os
import threading

import pytest

from salt_jax.data.scoring.shared_shards import SharedShards

NAMES = [f"part-{i}.npy" for i in range(10)]


@pytest.fixture
def open_shards(tmp_path):
    """Opens the folder as one more process would."""
    return lambda: SharedShards(tmp_path, NAMES)


def rows(shard):
    return bytes([shard] * 4)


def take_all(shards, *process):
    """Takes and writes shards until there is none; returns which, in order."""
    taken = []
    while (shard := shards.take(*process)) is not None:
        shards.write(shard, rows(shard))
        taken.append(shard)
    return taken


def test_a_process_alone_takes_every_shard_once_in_order(open_shards, tmp_path):
    shards = open_shards()
    assert take_all(shards) == list(range(10))
    assert shards.missing() == []
    for shard, name in enumerate(NAMES):
        assert (tmp_path / name).read_bytes() == rows(shard)


def test_a_process_takes_its_own_first_and_then_the_others_from_the_far_end(
    open_shards,
):
    assert take_all(open_shards(), 1, 3) == [1, 4, 7, 9, 8, 6, 5, 3, 2, 0]


@pytest.mark.parametrize("processes", [[()] * 3, [(i, 3) for i in range(3)]])
def test_no_shard_is_begun_twice_while_one_is_left_that_nobody_has_begun(
    open_shards, processes
):
    everyone = [open_shards() for _ in processes]
    turns = itertools.cycle(zip(everyone, processes, strict=True))
    taken = [shards.take(*process) for shards, process in itertools.islice(turns, 10)]
    assert sorted(taken) == list(range(10))


def test_a_shard_that_another_has_begun_and_not_finished_is_taken_last(open_shards):
    slow, fast = open_shards(), open_shards()
    assert slow.take(0, 2) == 0
    assert take_all(fast, 1, 2) == [1, 3, 5, 7, 9, 8, 6, 4, 2, 0]


def test_idle_processes_spread_over_what_the_slow_ones_have_begun(open_shards):
    slow = [open_shards() for _ in range(3)]
    begun = {shards.take(i, 5) for i, shards in enumerate(slow)}
    assert begun == {0, 1, 2}
    for shard in range(3, 10):
        slow[0].write(shard, rows(shard))
    assert {open_shards().take(i, 5) for i in (3, 4)} < begun


def test_a_process_never_takes_a_shard_twice(open_shards):
    shards = open_shards()
    assert sorted(shards.take() for _ in NAMES) == list(range(10))
    assert shards.take() is None
    assert open_shards().take() is not None


def test_what_is_written_is_not_taken(open_shards):
    open_shards().write(3, rows(3))
    assert take_all(open_shards()) == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_the_first_to_write_a_shard_wins(open_shards, tmp_path):
    first, second = open_shards(), open_shards()
    assert (first.take(), first.is_written(0)) == (0, False)
    second.write(0, rows(7))
    assert first.is_written(0)
    first.write(0, rows(8))
    assert (tmp_path / NAMES[0]).read_bytes() == rows(7)


def test_nothing_but_shards_is_left(open_shards, tmp_path):
    (tmp_path / "another.npy.0123.partial").touch()
    dead = open_shards()
    dead.take()
    shards = open_shards()
    take_all(shards)
    shards.clean()
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {*NAMES, "another.npy.0123.partial"}


def test_who_finishes_late_finds_the_folder_cleaned_and_does_not_mind(
    open_shards, tmp_path
):
    late = open_shards()
    late.take()
    others = open_shards()
    take_all(others)
    others.clean()
    late.write(0, rows(0))
    assert {file.name for file in tmp_path.iterdir()} == set(NAMES)


def test_who_is_overtaken_while_it_writes_does_not_mind(
    open_shards, tmp_path, monkeypatch
):
    late, others = open_shards(), open_shards()

    def overtaken(descriptor):
        monkeypatch.undo()
        take_all(others)
        others.clean()

    monkeypatch.setattr(os, "fsync", overtaken)
    late.write(late.take(), rows(0))
    assert {file.name for file in tmp_path.iterdir()} == set(NAMES)


def test_many_writers_at_once_leave_every_shard_whole(open_shards, tmp_path):
    threads = [
        threading.Thread(target=take_all, args=(open_shards(), i % 2, 2))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for shard, name in enumerate(NAMES):
        assert (tmp_path / name).read_bytes() == rows(shard)
