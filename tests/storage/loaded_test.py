import dataclasses
import functools

import jax
import pytest

from salt_jax.mesh.memory import bytes_per_device
from salt_jax.storage.loaded import LoadedModel
from tests import runs


def test_a_model_is_read_elsewhere_than_where_its_attention_was_chosen_for(tmp_path):
    trained = dataclasses.replace(runs.TEACHER, attention="splash", remat="full")
    runs.make_teacher(tmp_path / "export", trained)
    config = LoadedModel.open(tmp_path / "export").model.config
    assert (config.attention, config.remat) == ("auto", "none")


def test_a_model_that_writes_needs_room_for_its_layers_one_by_one(tmp_path):
    runs.make_teacher(tmp_path / "export")
    load = functools.partial(
        LoadedModel.open, tmp_path / "export", devices=jax.devices()[:1]
    )
    available = bytes_per_device(load().params) * 3 // 2
    load(available=available)
    with pytest.raises(ValueError, match="layer by layer"):
        load(available=available, writes=True)


def test_a_length_that_is_none_is_refused(tmp_path):
    runs.make_teacher(tmp_path / "export")
    with pytest.raises(ValueError, match=r"max_length=0 is not positive\.$"):
        LoadedModel.open(tmp_path / "export", max_length=0)
