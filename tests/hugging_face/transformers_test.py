"""Models are the same in transformers and here, whichever way they go."""

import json

import gin
import jax
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import transformers

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.hugging_face.config_json import read_model
from salt_jax.hugging_face.exporting import export_to_hugging_face
from salt_jax.hugging_face.importing import import_from_hugging_face
from salt_jax.main import main
from salt_jax.mesh.partitioning import MeshShape
from salt_jax.storage.export import Export
from tests.hugging_face import models

FAST = ("llama_3", "gemma_3")


def each_model():
    for name in models.CONFIGS:
        yield name if name in FAST else pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=each_model())
def folders(request, tmp_path_factory):
    """A model of transformers, our import of it, and our export of that."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs = models.write_model(folder / "theirs", request.param)
    export = import_from_hugging_face(theirs, folder / "ours")
    export_to_hugging_face(export, folder / "back", dtype="float32")
    return folder


def test_imported_logits_are_those_of_transformers(folders):
    theirs_BLV = models.their_logits(folders / "theirs")
    ours_BLV = models.our_logits(folders / "ours", devices=jax.devices()[:1])
    assert np.std(theirs_BLV) > 0.05
    models.assert_close(ours_BLV, theirs_BLV)


def test_exported_logits_are_those_of_transformers_bit_for_bit(folders):
    back_BLV, there_BLV = (
        models.their_logits(folders / name) for name in ("back", "theirs")
    )
    np.testing.assert_array_equal(back_BLV, there_BLV)


def test_tensors_come_back_bit_for_bit(folders):
    there, back = (
        safetensors.numpy.load_file(folders / name / "model.safetensors")
        for name in ("theirs", "back")
    )
    assert there.keys() == back.keys()
    for name, tensor in there.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("cap", ["final_logit_softcapping", "attn_logit_softcapping"])
def test_the_caps_of_gemma_2_change_the_logits(tmp_path, cap):
    theirs = models.write_model(tmp_path / "theirs", "gemma_2")
    capped_BLV = models.their_logits(theirs)
    about = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps(about | {cap: None}))
    import_from_hugging_face(theirs, tmp_path / "ours")
    ours_BLV = models.our_logits(tmp_path / "ours", devices=jax.devices()[:1])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        models.assert_close(ours_BLV, capped_BLV)


@pytest.mark.parametrize("first", range(5))
@pytest.mark.parametrize("is_used", [True, False])
def test_the_layers_of_qwen_with_a_window_are_those_of_transformers(first, is_used):
    windows = {
        "num_hidden_layers": 4,
        "use_sliding_window": is_used,
        "max_window_layers": first,
    }
    theirs = transformers.Qwen2Config(**windows)
    about = theirs.to_dict() | {"architectures": ["Qwen2ForCausalLM"]}
    # As older files are: they leave these to the class.
    del about["layer_types"], about["sliding_window"]
    num_windows = theirs.layer_types.count("sliding_attention")
    assert num_windows == (4 - first if is_used else 0)
    if 0 < num_windows < 4:
        with pytest.raises(ValueError, match=f" {'0' * first}{'1' * num_windows} "):
            read_model(about)
    else:
        window = theirs.sliding_window if num_windows else None
        assert read_model(about).sliding_window == window


def test_a_shape_as_gin_text_is_the_shape_of_the_import(folders):
    text = (folders / "ours" / "model.gin").read_text()
    gin.clear_config()
    gin.parse_config(text)
    with gin.config_scope("imported"):
        bound = gin.get_configurable("imported/model.TransformerConfig")()
    gin.clear_config()
    assert not bound.differences(Export.open(folders / "ours").model)


@pytest.mark.slow
def test_an_import_lies_on_any_mesh(tmp_path):
    theirs = models.write_model(tmp_path / "theirs", "llama")
    import_from_hugging_face(theirs, tmp_path / "ours")
    on_four = {"mesh": MeshShape(data=2, model=2), "devices": jax.devices()[:4]}
    ours_BLV = models.our_logits(tmp_path / "ours", **on_four)
    models.assert_close(ours_BLV, models.their_logits(theirs))


@pytest.mark.parametrize("wanted", [None, "float32"])
def test_an_import_of_bfloat16_keeps_its_bits_in_the_dtype_asked(tmp_path, wanted):
    theirs = models.write_model(tmp_path / "theirs", "qwen_2", torch.bfloat16)
    export = import_from_hugging_face(theirs, tmp_path / "ours", dtype=wanted)
    assert export.dtype == export.model.dtype == (wanted or "bfloat16")
    export_to_hugging_face(export, tmp_path / "back", dtype="bfloat16")
    there, back = (
        safetensors.torch.load_file(tmp_path / name / "model.safetensors")
        for name in ("theirs", "back")
    )
    assert all(torch.equal(there[name], back[name]) for name in there | back)


def test_an_import_says_where_it_is_from_and_how_much_it_reads(tmp_path):
    theirs = models.write_model(tmp_path / "theirs", "llama")
    export = import_from_hugging_face(theirs, tmp_path / "ours")
    expected = {
        "imported_from": str(theirs),
        "architecture": "LlamaForCausalLM",
        "step": 0,
    }
    assert export.provenance == expected
    assert export.seq_len == 64
    assert str(theirs) in (tmp_path / "ours" / "README.md").read_text()


def test_all_ends_of_a_model_come_back(tmp_path):
    theirs = models.write_model(tmp_path / "theirs", "llama")
    said = json.loads((theirs / "generation_config.json").read_text())
    ends = json.dumps(said | {"eos_token_id": [1, 7]})
    (theirs / "generation_config.json").write_text(ends)
    export = import_from_hugging_face(theirs, tmp_path / "ours")
    assert Vocabulary.open(export.vocabulary_path).end_ids == (1, 7)
    export_to_hugging_face(export, tmp_path / "back", dtype="float32")
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "back")
    assert generation.eos_token_id == [1, 7]
    assert (
        json.loads((tmp_path / "back" / "config.json").read_text())["eos_token_id"] == 1
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert tokenizer.eos_token_id == 1


def test_the_commands_import_and_export(tmp_path, capsys):
    theirs = models.write_model(tmp_path / "theirs", "gemma")
    taken = [f"--from={theirs}", f"--output={tmp_path}/ours"]
    assert main(["import", *taken]) == 0
    again = ["--format=hf", f"--export={tmp_path}/ours", f"--output={tmp_path}/back"]
    assert main(["export", *again]) == 0
    there, back = (
        safetensors.numpy.load_file(path / "model.safetensors")
        for path in (theirs, tmp_path / "back")
    )
    assert all(np.array_equal(there[name], back[name]) for name in there | back)
    assert main(["export", *again]) == 2
    assert "Not exporting to" in capsys.readouterr().err
    assert main(["import", taken[0]]) == 2
    assert "required: --output" in capsys.readouterr().err
