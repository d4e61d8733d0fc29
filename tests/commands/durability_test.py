"""No file gets its name before its contents are on disk."""

import collections
import os
import pathlib

import pytest

from salt_jax.main import main


class Disk:
    """Notes what was flushed, and which renames came before that."""

    def __init__(self, monkeypatch):
        self._flushed = {}  # By inode: the last change before the last flush.
        self._folders = set()  # Those with a new name that is not flushed.
        self.num_renames = 0
        self.too_early = []
        real = {name: getattr(os, name) for name in ("fsync", "rename", "replace")}

        def fsync(descriptor):
            real["fsync"](descriptor)
            stat = os.fstat(descriptor)
            self._flushed[stat.st_ino] = stat.st_mtime_ns
            self._folders -= {
                x for x in self._folders if x.stat().st_ino == stat.st_ino
            }

        def renamed(how):
            def rename(source, target, **kwargs):
                target = pathlib.Path(target)
                # Orbax gives names within a folder that has none yet.
                if not any(x.endswith(".unfinished") for x in target.parts):
                    self._look(pathlib.Path(source))
                    self._folders.add(target.parent)
                real[how](source, target, **kwargs)

            return rename

        monkeypatch.setattr(os, "fsync", fsync)
        for how in ("rename", "replace"):
            monkeypatch.setattr(os, how, renamed(how))

    def _look(self, source):
        self.num_renames += 1
        paths = [source, *source.rglob("*")] if source.is_dir() else [source]
        self.too_early += [str(path) for path in paths if not self._is_flushed(path)]

    def _is_flushed(self, path):
        stat = path.stat()
        return self._flushed.get(stat.st_ino, -1) >= stat.st_mtime_ns

    def unflushed_folders(self):
        """Returns the folders whose new names may be lost."""
        return [x for x in self._folders if x.exists()]


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def run(command, folder, trained):
    files = trained[0][0].removeprefix("--gin_file=").rpartition("/")[0]
    arguments = {
        "prepare": [f"--gin_file={files}/prepare.gin", f"--gin.DATA='{folder}/data'"],
        "score": [f"--gin_file={files}/score.gin", f"--gin.SCORES='{folder}/scores'"],
        "export": [*trained[0], f"--output={folder}/export"],
        "hf": ["--format=hf", f"--export={files}/teacher", f"--output={folder}/hf"],
        "evaluate": trained[0],
    }
    name = "export" if command == "hf" else command
    assert main([name, *arguments[command]]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "at_least"),
    [("prepare", 6), ("score", 3), ("export", 1), ("hf", 1), ("evaluate", 3)],
)
def test_a_command_renames_nothing_that_is_not_flushed(
    command, at_least, disk, trained, tmp_path
):
    run(command, tmp_path, trained)
    assert disk.num_renames >= at_least
    assert collections.Counter(disk.too_early) == {}
    assert disk.unflushed_folders() == []
