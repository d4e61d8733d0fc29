"""An exported folder says when one of its files was changed; one of others is free."""

import pytest
from etils import epath

from salt_jax.hugging_face.checksums import NAME, check_checksums, write_checksums


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text(f"contents of {name}")
    write_checksums(epath.Path(tmp_path))
    return epath.Path(tmp_path)


def test_what_was_written_passes(folder):
    check_checksums(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("contents", [None, "", "contents of something else"])
def test_a_file_that_was_changed_is_refused_by_name(name, contents, folder):
    (folder / name).unlink() if contents is None else (folder / name).write_text("x")
    with pytest.raises(ValueError, match=rf"{folder / name} is .*delete {NAME}"):
        check_checksums(folder)


def test_only_the_files_that_are_named_are_read(folder):
    (folder / "model.safetensors").write_text("x")
    check_checksums(folder, ["config.json"])


def test_a_folder_without_checksums_is_of_others(folder):
    (folder / NAME).unlink()
    (folder / "config.json").write_text("x")
    check_checksums(folder)
