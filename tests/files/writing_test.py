"""A file is whole or as it was before, and leaves nothing else behind."""

import os

import pytest

from salt_jax.files import writing


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    writing.write_file(path, "before")
    writing.write_file(path, b"after")
    assert path.read_text() == "after"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    writing.write_file(path, "before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        writing.write_file(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_flushed_around_the_rename(tmp_path, monkeypatch):
    events = []
    flush = os.fsync

    def fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    writing.write_file(tmp_path / "file.txt", "text")
    partial, folder = events
    assert partial.startswith("file.txt.") and folder == tmp_path.name


def test_a_folder_gets_its_name_at_the_end(tmp_path):
    output = tmp_path / "export"
    with writing.new_folder(output) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("x")
        assert not output.exists()
    assert (output / "inner" / "file").read_text() == "x"
    assert list(tmp_path.iterdir()) == [output]


def test_a_folder_whose_writing_fails_is_removed(tmp_path):
    with pytest.raises(KeyError), writing.new_folder(tmp_path / "export") as folder:
        (folder / "file").write_text("x")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_what_a_killed_attempt_left_is_not_part_of_the_next(tmp_path):
    left = tmp_path / "export.unfinished"
    left.mkdir()
    (left / "stale").write_text("x")
    with writing.new_folder(tmp_path / "export") as folder:
        (folder / "file").write_text("x")
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["file"]
