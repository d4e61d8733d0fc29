import dataclasses

import jax
import pytest

from salt_jax.mesh.partitioning import bytes_per_device
from salt_jax.storage import loaded
from salt_jax.storage.loaded import LoadedModel
from tests import runs


def test_a_model_is_read_elsewhere_than_where_its_attention_was_chosen_for(tmp_path):
    trained = dataclasses.replace(runs.TEACHER, attention="splash", remat="full")
    runs.make_teacher(tmp_path / "export", trained)
    config = LoadedModel.open(tmp_path / "export").model.config
    assert (config.attention, config.remat) == ("auto", "none")


def test_a_model_that_writes_needs_room_for_its_layers_one_by_one(
    tmp_path, monkeypatch
):
    runs.make_teacher(tmp_path / "export")
    device = jax.devices()[:1]
    held = bytes_per_device(
        LoadedModel.open(tmp_path / "export", devices=device).params
    )
    monkeypatch.setattr(loaded, "available_per_device", lambda _: 1.5 * held)
    LoadedModel.open(tmp_path / "export", devices=device)
    with pytest.raises(ValueError, match="layer by layer"):
        LoadedModel.open(tmp_path / "export", devices=device, writes=True)


def test_a_length_that_is_none_is_refused(tmp_path):
    runs.make_teacher(tmp_path / "export")
    with pytest.raises(ValueError, match=r"max_length=0 is not positive\.$"):
        LoadedModel.open(tmp_path / "export", max_length=0)
