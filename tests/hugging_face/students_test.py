"""Models that were trained here are what transformers reads, whatever their parts."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import transformers

from salt_jax.data.vocabulary import Vocabulary
from salt_jax.hugging_face.architectures import architecture_of
from salt_jax.hugging_face.exporting import export_to_hugging_face
from salt_jax.mesh.partitioning import MeshShape, Partitioning
from salt_jax.model.config import RopeScaling, TransformerConfig
from salt_jax.model.transformer import Transformer, init_params
from salt_jax.storage.export_writing import write_export
from tests import small_tokenizers
from tests.hugging_face import models

STUDENT = TransformerConfig(
    vocab_size=4096,
    num_layers=3,
    embed_dim=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=40,
    dtype="float32",
)
PLAIN = {"activation": "silu", "scale_embedding": False}
WINDOWS = {"sliding_window": 5, "global_every": 2}
LLAMA3 = RopeScaling(
    kind="llama3",
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_len=16,
)
VOCABULARY = "embedded:tokenizer/spm_4k.model"
STUDENTS = {
    "GemmaForCausalLM": {},
    "GemmaForCausalLM unrolled": {"scan_layers": False},
    "GemmaForCausalLM of zero-centered norms": {"zero_centered_norm": True},
    "LlamaForCausalLM": {**PLAIN, "rope_scaling": LLAMA3},
    "LlamaForCausalLM of a scaled embedding": {"tied_embedding": False},
    "LlamaForCausalLM of zero-centered norms": {**PLAIN, "zero_centered_norm": True},
    "Qwen2ForCausalLM": {**PLAIN, **WINDOWS, "qkv_bias": True},
    "Qwen3ForCausalLM": {**PLAIN, **WINDOWS, "qk_norm": True},
    "Gemma2ForCausalLM": {
        **WINDOWS,
        "post_norms": True,
        "query_scale": 12**-0.5,
        "attention_softcap": 3.0,
        "logit_softcap": 5.0,
    },
    "Gemma2ForCausalLM of an embedding that is not scaled": {
        "post_norms": True,
        "scale_embedding": False,
        "tied_embedding": False,
        "zero_centered_norm": True,
    },
    "Gemma3ForCausalLM": {
        **WINDOWS,
        "post_norms": True,
        "qk_norm": True,
        "local_rope_theta": 100.0,
        "logit_softcap": 5.0,
    },
}
SLOW = [name for name in STUDENTS if name != "GemmaForCausalLM"]


@pytest.fixture
def write(tmp_path):
    def write(**fields):
        """Exports a student whose norms and biases are as good as trained."""
        vocabulary = Vocabulary.open(VOCABULARY).path
        if fields.get("qkv_bias"):  # The tokenizer of such models is always Qwen's.
            qwen = small_tokenizers.composing()
            vocabulary = small_tokenizers.write(tmp_path / "vocabulary.json", qwen)
        model = dataclasses.replace(STUDENT, **fields)
        on_one = Partitioning(mesh=MeshShape().build(jax.devices()[:1]))
        transformer = Transformer(model, on_one)
        params = on_one.materialize(
            lambda key: init_params(transformer, key), jax.random.key(0)
        )
        draw = np.random.default_rng(0)
        moved = jax.tree_util.tree_map_with_path(
            lambda path, x: (
                x + 0.3 * draw.standard_normal(x.shape, np.float32)
                if path[-1].key == "scale" or path[-1].key.endswith("_bias")
                else 2 * x
            ),
            params,
        )
        return write_export(
            tmp_path / "ours",
            moved,
            model=model,
            vocabulary=vocabulary,
            provenance={"workdir": "runs/student", "step": 12},
            dtype="float32",
            seq_len=64,
        )

    return write


@pytest.mark.parametrize(
    "name",
    ["GemmaForCausalLM", *(pytest.param(x, marks=pytest.mark.slow) for x in SLOW)],
)
def test_a_student_has_the_logits_that_transformers_computes(write, tmp_path, name):
    export = write(**STUDENTS[name])
    export_to_hugging_face(export, tmp_path / "theirs", dtype="float32")
    assert architecture_of(export.model).name == name.split()[0]
    ours_BLV = models.our_logits(export.path, devices=jax.devices()[:1])
    theirs_BLV = models.their_logits(tmp_path / "theirs")
    assert np.std(ours_BLV) > 0.1
    models.assert_close(ours_BLV, theirs_BLV)


def test_a_vocabulary_that_transformers_would_read_otherwise_is_refused(
    write, tmp_path
):
    export = write(**PLAIN, qkv_bias=True)
    ours = Vocabulary.open(VOCABULARY).path
    swapped = dataclasses.replace(export, vocabulary_file=str(ours))
    with pytest.raises(ValueError, match="qwen2"):
        export_to_hugging_face(swapped, tmp_path / "theirs", dtype="float32")
    assert not list(tmp_path.glob("theirs*"))


def test_a_folder_for_transformers_is_whole_and_reads_text_as_the_student_does(
    write, tmp_path
):
    export = write()
    folder = tmp_path / "theirs"
    export_to_hugging_face(export, folder, dtype="bfloat16", shard_bytes=100_000)
    vocabulary = Vocabulary.open(export.vocabulary_path)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = [vocabulary.begin_id, *vocabulary.encode("A small model.")]
    assert tokenizer("A small model.")["input_ids"] == expected
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.max_position_embeddings == 64
    assert model.generation_config.eos_token_id == vocabulary.eos_id
    # Its own begins a text, and generation would take it out.
    assert model.generation_config.pad_token_id == vocabulary.eos_id
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
    card = (folder / "README.md").read_text()
    for words in (
        "runs/student",
        "`GemmaForCausalLM`",
        "64 tokens",
        export.fingerprint,
    ):
        assert words in card
    assert not list(tmp_path.glob("*.unfinished"))
