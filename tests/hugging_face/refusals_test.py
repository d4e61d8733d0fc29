"""What cannot be imported or exported is refused in one line, by its name."""

import dataclasses
import json
import math

import numpy as np
import pytest
import safetensors.numpy

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.hugging_face.architectures import architecture_of
from salt_jax.hugging_face.config_json import read_model, write_model
from salt_jax.hugging_face.exporting import export_to_hugging_face
from salt_jax.hugging_face.importing import import_from_hugging_face
from salt_jax.hugging_face.safetensors_files import StoredTensor
from salt_jax.hugging_face.tensors import tensors_of
from salt_jax.model.config import RopeScaling, TransformerConfig
from salt_jax.storage.array_pieces import ArrayWriter
from salt_jax.storage.export import Export
from tests.hugging_face import models

VOCAB_SIZE = models.VOCAB_SIZE
FILE = "vocabulary.json"
MODEL = TransformerConfig(
    vocab_size=VOCAB_SIZE,
    num_layers=4,
    embed_dim=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=24,
    activation="silu",
    scale_embedding=False,
)
WINDOWS = {"sliding_window": 8, "global_every": 3}
WINDOWS_OF_THREE = ("sliding", "full", "sliding", "sliding")
GEMMA = {"scale_embedding": True, "activation": "gelu", "zero_centered_norm": True}
PARTS = {
    "LlamaForCausalLM": {},
    "Qwen2ForCausalLM": {"qkv_bias": True, **WINDOWS},
    "Qwen3ForCausalLM": {"qk_norm": True},
    "GemmaForCausalLM": GEMMA,
    "Gemma2ForCausalLM": {**GEMMA, **WINDOWS, "post_norms": True},
    "Gemma3ForCausalLM": {
        **GEMMA,
        **WINDOWS,
        "post_norms": True,
        "qk_norm": True,
        "local_rope_theta": 1e4,
    },
}


def config_json(name="LlamaForCausalLM", **fields):
    model = dataclasses.replace(MODEL, **PARTS[name])
    about = write_model(model, max_length=32, dtype="float32", special_tokens={})
    assert about["architectures"] == [name]
    return about | fields


@pytest.fixture
def folder(tmp_path):
    """A folder of a random Llama, made without transformers."""
    path = tmp_path / "theirs"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config_json()))
    draw = np.random.default_rng(0)
    tensors = {
        tensor.name: draw.standard_normal(tensor.shape, np.float32)
        for tensor in tensors_of(MODEL, architecture_of(MODEL))
    }
    safetensors.numpy.save_file(tensors, path / "model.safetensors")
    models.write_tokenizer(path)
    return path


def edit_tensors(folder, edit):
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    edit(tensors)
    safetensors.numpy.save_file(tensors, path)


def refused(folder, match, kind=ValueError):
    with pytest.raises(kind, match=match) as error:
        import_from_hugging_face(folder, folder.parent / "ours")
    assert "\n" not in str(error.value)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


# ---- Architectures -------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
def test_a_config_that_is_written_is_read_as_the_same_model(name):
    found = read_model(config_json(name))
    assert not found.differences(dataclasses.replace(MODEL, **PARTS[name]))


@pytest.mark.parametrize(
    "model",
    [
        dataclasses.replace(
            MODEL, rope_scaling=RopeScaling(kind="linear", factor=4.0), rope_theta=5e5
        ),
        dataclasses.replace(
            MODEL,
            rope_scaling=RopeScaling(
                kind="llama3",
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_len=8192,
            ),
        ),
        dataclasses.replace(MODEL, **PARTS["Gemma2ForCausalLM"], query_scale=1 / 12),
        dataclasses.replace(MODEL, **PARTS["Gemma2ForCausalLM"], logit_softcap=30.0),
        dataclasses.replace(MODEL, tied_embedding=False, norm_eps=1e-5),
    ],
)
def test_numbers_of_a_config_come_back(model):
    about = write_model(model, max_length=32, dtype="float32", special_tokens={})
    assert not read_model(json.loads(json.dumps(about))).differences(model)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"architectures": ["GPTNeoXForCausalLM"]}, r"GPTNeoX.*LlamaFor"),
        ({"architectures": ["MixtralForCausalLM"]}, r"MixtralForCausalLM"),
        ({"architectures": None, "model_type": "mamba"}, r"'mamba'"),
        ({"attention_bias": True}, r"attention_bias=True.*attention_bias=False"),
        ({"mlp_bias": True}, r"mlp_bias=True"),
        ({"hidden_act": "relu"}, r"hidden_act='relu'.*silu"),
        ({"hidden_act": "gelu"}, r"hidden_act='gelu'.*gelu_pytorch_tanh"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, r"rope_type='yarn'"),
        ({"rope_scaling": {"type": "dynamic"}}, r"'dynamic'.*linear and llama3"),
        ({"rope_scaling": {"type": "linear"}}, r"'linear' .*'factor'"),
        ({"rope_scaling": None, "partial_rotary_factor": 0.5}, r"rotary_factor=0.5"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config="),
        ({"auto_map": {"AutoModel": "its.Code"}}, r"auto_map="),
        ({"hidden_size": None}, r"hidden_size=None"),
        ({"num_attention_heads": 0}, r"num_attention_heads=0"),
        ({"head_dim": 7}, r"head_dim must be even"),
    ],
)
def test_a_part_that_is_not_here_is_refused_by_its_field(fields, match):
    with pytest.raises(ValueError, match=match):
        read_model(config_json(**fields))


@pytest.mark.parametrize(
    ("name", "fields", "match"),
    [
        (
            "Qwen2ForCausalLM",
            {"layer_types": None, "use_sliding_window": True, "max_window_layers": 2},
            r"sliding_window=8 .*0011",
        ),
        (
            "Gemma2ForCausalLM",
            {"layer_types": [f"{x}_attention" for x in WINDOWS_OF_THREE]},
            r"sliding_window=8 .*1011",
        ),
        (
            "Qwen3ForCausalLM",
            {"layer_types": ["chunked_attention"] * 4},
            r"layer_types=\['chunked",
        ),
        (
            "Gemma3ForCausalLM",
            {"attn_logit_softcapping": 50.0},
            r"attn_logit_softcapping=50",
        ),
        (
            "Gemma3ForCausalLM",
            {"use_bidirectional_attention": True},
            r"use_bidirectional_attention=True",
        ),
        (
            "Gemma3ForCausalLM",
            {
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "linear", "factor": 2.0}
                }
            },
            r"positions .*'factor': 2.0",
        ),
    ],
)
def test_windows_that_are_not_here_are_refused(name, fields, match):
    with pytest.raises(ValueError, match=match):
        read_model(config_json(name, **fields))


def test_fields_that_its_class_does_not_read_are_passed_over():
    fields = {"sliding_window": 4, "num_local_experts": 8, "logit_scale": 0.1}
    assert not read_model(config_json(**fields)).differences(MODEL)


def test_a_window_that_is_not_used_is_none():
    fields = {"layer_types": None, "use_sliding_window": False, "sliding_window": 4}
    found = read_model(config_json("Qwen3ForCausalLM", **fields))
    assert found.sliding_window is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"logit_softcap": 30.0}, "logit_softcap=30.0"),
        ({"attention_softcap": 30.0}, "attention_softcap=30.0"),
        ({"query_scale": 0.1}, "query_scale=0.1"),
        (WINDOWS, "sliding_window=8"),
        ({"qkv_bias": True, "qk_norm": True}, "qkv_bias=True"),
        ({"qkv_bias": True, "scale_embedding": True}, "scale_embedding=True"),
        ({"post_norms": True}, "scale_embedding=False"),
        ({"embed_dim": 15}, "num_heads=2"),
        (PARTS["Gemma2ForCausalLM"] | {"local_rope_theta": 1e4}, "local_rope_theta="),
        (PARTS["Gemma3ForCausalLM"] | {"attention_softcap": 9.0}, "attention_softcap="),
    ],
    ids=str,
)
def test_a_model_that_no_architecture_is_is_refused_by_the_part_in_the_way(
    fields, named
):
    model = dataclasses.replace(MODEL, **fields)
    with pytest.raises(ValueError, match=rf"closest, \w+, lacks {named}"):
        architecture_of(model)


# ---- Tensors -------------------------------------------------------------------------


def test_a_folder_without_config_or_tensors_is_refused(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, r"No model\.safetensors and no model\..*index", FileNotFoundError)
    (folder / "config.json").unlink()
    refused(folder, r"No .*config\.json", FileNotFoundError)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_pickled_tensors_are_never_opened(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, rf"in {name}: .*pickle.*safetensors")


def test_missing_tensors_are_refused_by_name(folder):
    missing = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(folder, lambda tensors: tensors.pop(missing))
    refused(folder, rf"lacks {missing}")


def test_tensors_beside_those_of_the_model_are_refused_by_name(folder):
    extra = {"model.layers.0.self_attn.q_proj.bias": np.zeros(16, np.float32)}
    edit_tensors(folder, lambda tensors: tensors.update(extra))
    refused(folder, r"unknown .*model\.layers\.0\.self_attn\.q_proj\.bias")


def test_copies_and_tables_that_a_model_makes_itself_are_passed_over(folder):
    spare = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32),
    }
    edit_tensors(folder, lambda tensors: tensors.update(spare))
    assert import_from_hugging_face(folder, folder.parent / "ours").dtype == "float32"


def test_a_tensor_of_another_shape_is_refused_with_both(folder):
    def transpose(tensors):
        name = "model.layers.2.mlp.down_proj.weight"
        tensors[name] = np.ascontiguousarray(tensors[name].T)

    edit_tensors(folder, transpose)
    refused(folder, r"layers\.2\.mlp\.down_proj.* shape \[24, 16\].* \[16, 24\]")


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_file_is_refused_with_how_much_of_it_is_there(folder, kept):
    path = folder / "model.safetensors"
    content = path.read_bytes()[:kept]
    path.write_bytes(content)
    refused(folder, rf"truncated.* {len(content):,} bytes")


def test_a_file_with_something_after_its_tensors_is_refused(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")
    refused(folder, r"truncated or damaged")


def with_header(folder, edit):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = edit(json.loads(content[8 : 8 + length]))
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_a_header_whose_places_and_shapes_disagree_is_refused(folder):
    def widen(header):
        header["model.norm.weight"]["shape"] = [17]
        return header

    with_header(folder, widen)
    refused(folder, r"damaged: 'model\.norm\.weight' of shape \[17\] has 64 bytes")


def test_a_header_that_is_no_header_is_refused(folder):
    with_header(folder, lambda header: [1, 2])
    refused(folder, r"header")


def test_quantized_tensors_are_refused_by_their_dtype(folder):
    def narrow(tensors):
        name = "model.norm.weight"
        tensors[name] = tensors[name].astype(np.int8)

    edit_tensors(folder, narrow)
    refused(folder, r"'model\.norm\.weight' .* I8.*F32, BF16, F16")


def test_an_index_is_followed_and_refused_where_its_files_are_not_there(folder):
    names = [*safetensors.numpy.load_file(folder / "model.safetensors")]
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "one.safetensors")})
    )
    import_from_hugging_face(folder, folder.parent / "ours")
    weight_map = dict.fromkeys(names, "one.safetensors")
    for wrong, match in [
        ({"weight_map": weight_map | {"more": "one.safetensors"}}, r"lacks more,"),
        ({"weight_map": weight_map | {"more": "two.safetensors"}}, r"No .*two\."),
        ({"weight_map": weight_map | {"more": "../two.safetensors"}}, r"\.\./two\."),
        ({}, r"index"),
    ]:
        index.write_text(json.dumps(wrong))
        with pytest.raises((ValueError, FileNotFoundError), match=match):
            import_from_hugging_face(folder, folder.parent / "again")


def test_a_tokenizer_of_more_tokens_than_the_model_is_refused(folder):
    models.write_tokenizer(folder, 280)
    named = rf"theirs/tokenizer\.json has \d+ tokens, and config\.json .*={VOCAB_SIZE}:"
    refused(folder, named)


def add_tokens(folder, *tokens):
    path = folder / "tokenizer.json"
    record = json.loads(path.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    record["added_tokens"] += [flags | token for token in tokens]
    path.write_text(json.dumps(record))


IMAGE = {"id": VOCAB_SIZE, "content": "<image_soft_token>", "special": True}


def test_special_tokens_that_a_text_model_does_not_have_are_left_out(folder):
    before = Vocabulary.open(import_from_hugging_face(folder, folder / "a").path / FILE)
    add_tokens(folder, IMAGE)
    found = Vocabulary.open(import_from_hugging_face(folder, folder / "b").path / FILE)
    assert found.fingerprint == before.fingerprint
    assert found.size == VOCAB_SIZE


def test_other_tokens_that_a_model_does_not_have_are_refused(folder):
    add_tokens(folder, IMAGE | {"special": False})
    refused(folder, rf"theirs/tokenizer\.json has {VOCAB_SIZE + 1} tokens, and config")


def test_a_length_that_is_not_said_is_refused(folder):
    (folder / "config.json").write_text(
        json.dumps(config_json(max_position_embeddings=None))
    )
    refused(folder, r"max_position_embeddings=None")


# ---- Exports -------------------------------------------------------------------------


@pytest.fixture
def export(folder):
    return import_from_hugging_face(folder, folder.parent / "ours")


def test_nothing_is_written_over(folder, export):
    with pytest.raises(ValueError, match="Not exporting to "):
        export_to_hugging_face(export, folder, dtype="float32")
    with pytest.raises(ValueError, match="Not exporting to "):
        import_from_hugging_face(folder, export.path)


def test_the_longest_text_is_that_of_training_unless_another_is_given(export, tmp_path):
    for given, expected in (None, export.seq_len), (9, 9):
        folder = tmp_path / str(given)
        export_to_hugging_face(export, folder, dtype="float32", max_length=given)
        about = json.loads((folder / "config.json").read_text())
        assert about["max_position_embeddings"] == expected


@pytest.mark.parametrize("damage", ["flipped", "removed", "truncated"])
def test_a_damaged_export_is_refused_and_not_written(export, tmp_path, damage):
    path = next((export.path / "params").glob("params.layers.mlp.up/[0-9]*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:9])
    with pytest.raises(ValueError, match=r"The export at .* is damaged: ") as error:
        export_to_hugging_face(
            Export.open(export.path), tmp_path / "back", dtype="float32"
        )
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("back*"))


def test_an_import_that_fails_leaves_nothing_behind(folder, monkeypatch):
    read = StoredTensor.read

    def fail_late(self):
        if self.name == "model.norm.weight":
            raise OSError("the disk is gone")
        return read(self)

    monkeypatch.setattr(StoredTensor, "read", fail_late)
    refused(folder, "the disk is gone", OSError)


def test_an_import_that_forgets_a_piece_is_not_finished(tmp_path):
    shapes = {"a": np.zeros((4, 3), np.float32)}
    writer = ArrayWriter(tmp_path, shapes)
    with pytest.raises(AssertionError, match=str(math.prod(shapes["a"].shape))):
        writer.finish()


def test_a_tensor_that_is_not_finite_is_refused_by_its_name(folder):
    name = "model.layers.2.mlp.up_proj.weight"

    def spoil(tensors):
        tensors[name][3, 5] = np.nan

    edit_tensors(folder, spoil)
    refused(folder, rf"{name} in .*model\.safetensors.* not finite")
