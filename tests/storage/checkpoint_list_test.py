import shutil

import pytest

from salt_jax.storage import checkpoint_list
from salt_jax.storage.checkpoint_list import list_checkpoints, table
from tests.storage.checkpoint_test import filled, made, opened


@pytest.fixture
def folder(tmp_path):
    with opened(tmp_path, max_to_keep=9) as saved:
        for step, loss in {1: 2.0, 2: 1.5, 3: 1.75}.items():
            saved.save(step, made(step), {"stage": "one"}, {"val_loss": loss})
    return tmp_path


def test_each_checkpoint_has_its_size_stage_and_loss(folder):
    listed = list_checkpoints(folder, quick=False)
    assert [x.step for x in listed] == [1, 2, 3]
    assert [x.val_loss for x in listed] == [2.0, 1.5, 1.75]
    files = [path for path in (folder / "2").rglob("*") if path.is_file()]
    assert listed[1].bytes == sum(path.stat().st_size for path in files)
    assert {(x.stage, x.state) for x in listed} == {("one", "whole")}
    _, _, second, third = table(listed).splitlines()
    assert second.split()[3:] == ["1.5000", "best", "whole"]
    assert third.split()[3:] == ["1.7500", "latest", "whole"]


def test_damage_is_named_for_its_checkpoint_alone(folder):
    shutil.rmtree(folder / "2" / "state")
    shutil.copytree(folder / "1" / "state", folder / "2" / "state")
    (folder / "3" / "meta" / "metadata").write_text("{}")
    listed = {x.step: x for x in list_checkpoints(folder, quick=False)}
    assert [step for step, x in listed.items() if x.is_damaged] == [2, 3]
    assert str(folder / "2") in listed[2].state
    assert str(folder / "3" / "meta" / "metadata") in listed[3].state
    quick = list_checkpoints(folder, quick=True)
    assert quick[0].state == "index read" and quick[2].is_damaged


def test_a_checkpoint_that_is_deleted_meanwhile_is_left_out(folder, monkeypatch):
    saved = checkpoint_list.SavedCheckpoints
    real = saved.verify_arrays

    def delete_then_verify(self, step):
        if step == 2:
            self.delete(step)
        real(self, step)

    monkeypatch.setattr(saved, "verify_arrays", delete_then_verify)
    assert [x.step for x in list_checkpoints(folder, quick=False)] == [1, 3]


def test_a_checkpoint_without_a_loss_has_none(tmp_path):
    filled(tmp_path, 4)
    (listed,) = list_checkpoints(tmp_path, quick=True)
    assert (listed.stage, listed.val_loss) == (None, None)
    assert table([listed]).splitlines()[1].split()[2:] == ["latest", "index", "read"]
