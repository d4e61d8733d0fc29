"""Folders that transformers reads: with tensors twice, without a head, with a chat."""

import json

import numpy as np
import pytest
import safetensors.numpy

from salt_jax.hugging_face.architectures import architecture_of
from salt_jax.hugging_face.exporting import export_to_hugging_face
from salt_jax.hugging_face.importing import import_from_hugging_face
from salt_jax.hugging_face.safetensors_files import StoredTensor, open_tensors
from salt_jax.hugging_face.tensors import tensors_of
from salt_jax.storage.export import Export
from tests.hugging_face import models
from tests.hugging_face.refusals_test import MODEL, config_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
NORM = "model.norm.weight"


def save(path, tensors):
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})


def write_index(path, weight_map):
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def tensors():
    draw = np.random.default_rng(0)
    return {
        tensor.name: draw.standard_normal(tensor.shape, np.float32)
        for tensor in tensors_of(MODEL, architecture_of(MODEL))
    }


@pytest.fixture
def folder(tensors, tmp_path):
    path = tmp_path / "theirs"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config_json()))
    save(path / SINGLE, tensors)
    models.write_tokenizer(path)
    return path


def imported(folder):
    return import_from_hugging_face(folder, folder.parent / "ours")


def refused(folder, message):
    with pytest.raises(ValueError, match=message):
        imported(folder)


def test_one_file_goes_before_an_index_of_others(folder, tensors):
    expected = imported(folder).fingerprint
    save(folder / SHARDS[0], {name: x + 1 for name, x in tensors.items()})
    write_index(folder, dict.fromkeys(tensors, SHARDS[0]))
    again = import_from_hugging_face(folder, folder.parent / "again")
    assert again.fingerprint == expected


def test_of_two_files_with_one_tensor_the_one_that_the_index_names_counts(
    folder, tensors
):
    expected = imported(folder).fingerprint
    save(folder / SHARDS[0], tensors | {NORM: np.zeros_like(tensors[NORM])})
    save(folder / SHARDS[1], {NORM: tensors[NORM]})
    (folder / SINGLE).unlink()
    write_index(folder, dict.fromkeys(tensors, SHARDS[0]) | {NORM: SHARDS[1]})
    again = import_from_hugging_face(folder, folder.parent / "again")
    assert again.fingerprint == expected


def test_an_index_that_names_another_file_than_transformers_reads_is_refused(
    folder, tensors
):
    save(folder / SHARDS[0], tensors)
    save(folder / SHARDS[1], {NORM: tensors[NORM], "other": tensors[NORM]})
    (folder / SINGLE).unlink()
    write_index(folder, dict.fromkeys(tensors, SHARDS[0]) | {"other": SHARDS[1]})
    refused(folder, rf"{SHARDS[1]} repeats {NORM} of {SHARDS[0]}")


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "LlamaModel"])
def test_a_base_model_is_read_without_the_prefix_of_its_names(name, folder, tensors):
    expected = imported(folder).fingerprint
    save(folder / SINGLE, {n.removeprefix("model."): x for n, x in tensors.items()})
    (folder / "config.json").write_text(json.dumps(config_json(architectures=[name])))
    again = import_from_hugging_face(folder, folder.parent / "again")
    assert again.fingerprint == expected


def test_a_head_that_is_the_embedding_is_a_copy_and_another_one_is_refused(
    folder, tensors, monkeypatch
):
    embedding = tensors["model.embed_tokens.weight"]
    save(folder / SINGLE, tensors | {"lm_head.weight": embedding})
    # Some rows at a time: neither matrix has to fit into memory.
    monkeypatch.setattr("salt_jax.hugging_face.safetensors_files.READ_BYTES", 100)
    assert imported(folder).model.tied_embedding
    other = embedding.copy()
    other[-1, -1] += 1
    for head in (other, embedding[:-1]):
        save(folder / SINGLE, tensors | {"lm_head.weight": head})
        refused(folder, "lm_head.weight in .* tie_word_embeddings")


def test_the_rows_of_a_tensor_are_its_values(folder, tensors, monkeypatch):
    found = open_tensors(Export.open(imported(folder).path).path.parent / "theirs")
    for read_bytes in (1, 100, 1 << 20):
        monkeypatch.setattr(
            "salt_jax.hugging_face.safetensors_files.READ_BYTES", read_bytes
        )
        for name, tensor in found.items():
            assert isinstance(tensor, StoredTensor)
            rows = np.concatenate([*tensor.rows()])
            np.testing.assert_array_equal(rows, tensors[name])


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 10**8},
        {"num_hidden_layers": 10**8, "layer_types": None},
        {"num_hidden_layers": 9_999},
        {"vocab_size": 10**12},
        {"hidden_size": 10**12},
    ],
)
def test_a_config_of_a_huge_model_is_refused_at_once(fields, folder):
    (folder / "config.json").write_text(json.dumps(config_json(**fields)))
    refused(folder, "theirs/config.json")


def test_a_config_that_is_nested_too_deeply_is_refused_by_name(folder):
    (folder / "config.json").write_text("[" * 200_000)
    refused(folder, "config.json is not JSON")


TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize("form", ["file", "text", "named"])
def test_the_chat_template_comes_along(form, folder):
    if form == "file":
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    else:
        said = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use"}]
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text())
        settings["chat_template"] = TEMPLATE if form == "text" else said
        path.write_text(json.dumps(settings))
    export = imported(folder)
    assert export.chat_template == TEMPLATE
    export_to_hugging_face(export, folder.parent / "back", dtype="float32")
    tokenizer = models.transformers.AutoTokenizer.from_pretrained(
        folder.parent / "back"
    )
    asked = [{"role": "user", "content": "Who?"}]
    assert tokenizer.apply_chat_template(asked, tokenize=False) == "Who?"
    card = (folder.parent / "back" / "README.md").read_text()
    assert "chat template is" in card and "instructions" not in card


def test_a_model_without_a_chat_template_has_none(folder):
    export = imported(folder)
    assert export.chat_template is None
    export_to_hugging_face(export, folder.parent / "back", dtype="float32")
    assert not (folder.parent / "back" / "chat_template.jinja").exists()
