import random

import pytest

from salt_jax.storage.checkpoint_folder import CheckpointFolder
from tests.soak.checkpoint_bits import Campaign
from tests.storage.checkpoint_test import filled


def test_no_flipped_bit_is_restored_unnoticed(tmp_path):
    campaign, choose = Campaign.begin(tmp_path), random.Random(7)
    lines = [campaign.flip(choose) for _ in range(20)]
    assert all(line.endswith((": refused", ": harmless")) for line in lines), lines
    assert sum(line.endswith("refused") for line in lines) >= 5


def test_what_is_killed_while_deleting_is_not_listed_and_removed(tmp_path, monkeypatch):
    filled(tmp_path, 1, 2)
    folder = CheckpointFolder(tmp_path)

    def killed(path, **options):
        raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(type(folder.path(1)), "rmtree", killed)
        folder.delete(1)
    assert folder.all_steps() == [2]
    assert sorted(x.name for x in tmp_path.iterdir()) == ["1.deleting", "2"]
    folder.remove_unfinished()
    assert [x.name for x in tmp_path.iterdir()] == ["2"]


@pytest.mark.parametrize("name", ["007", "notes", "3.bak"])
def test_what_is_not_a_checkpoint_is_left_alone(tmp_path, name):
    (tmp_path / name).mkdir()
    folder = CheckpointFolder(tmp_path)
    assert folder.all_steps() == []
    folder.remove_unfinished()
    assert (tmp_path / name).is_dir()


def test_the_best_is_the_lowest_loss_and_needs_every_record(tmp_path):
    filled(tmp_path, 1, 2)
    folder = CheckpointFolder(tmp_path)
    assert folder.best_step() is None
    (tmp_path / "2/meta/metadata").write_text("{}")
    with pytest.raises(ValueError, match="2/meta/metadata has no checksum"):
        folder.best_step()


def test_a_folder_that_does_not_exist_has_no_checkpoints(tmp_path):
    folder = CheckpointFolder(tmp_path / "none")
    assert (folder.all_steps(), folder.latest_step()) == ([], None)
    with pytest.raises(FileNotFoundError, match="of step 3 .* none"):
        folder.record(3)
