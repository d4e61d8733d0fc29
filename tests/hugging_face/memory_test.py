"""However many tensors there are, hardly more than the largest is in memory."""

import json
import math
import tracemalloc

import numpy as np
import pytest

from salt_jax.hugging_face import exporting
from salt_jax.hugging_face.architectures import architecture_of
from salt_jax.hugging_face.config_json import write_model
from salt_jax.hugging_face.exporting import export_to_hugging_face
from salt_jax.hugging_face.importing import import_from_hugging_face
from salt_jax.hugging_face.safetensors_writing import write_tensors
from salt_jax.hugging_face.tensors import tensors_of
from salt_jax.model.config import TransformerConfig
from salt_jax.storage import array_files, array_pieces
from tests.hugging_face import models

MODEL = TransformerConfig(
    vocab_size=8192,
    num_layers=2,
    embed_dim=256,
    num_heads=2,
    num_kv_heads=2,
    head_dim=128,
    mlp_dim=8192,
    activation="silu",
    scale_embedding=False,
    tied_embedding=False,
)
LARGEST = 8192 * 256 * 4  # In bytes; there are eight of this size.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for module in (array_files, array_pieces, exporting):
        monkeypatch.setattr(module, "CHUNK_BYTES", LARGEST // 32)
    path = tmp_path / "theirs"
    path.mkdir()
    shapes = {x.name: x.shape for x in tensors_of(MODEL, architecture_of(MODEL))}
    assert max(4 * math.prod(shape) for shape in shapes.values()) == LARGEST
    assert sum(4 * math.prod(shape) for shape in shapes.values()) > 8 * LARGEST
    write_tensors(path, shapes, "float32", lambda name: [np.ones(shapes[name], "f4")])
    about = write_model(MODEL, max_length=8, dtype="float32", special_tokens={})
    (path / "config.json").write_text(json.dumps(about))
    models.write_tokenizer(path)
    return path


def peak_of(work):
    """Returns the most bytes that are held at once, when all is compiled before."""
    work("first")
    tracemalloc.start()
    try:
        work("second")
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_import_holds_one_tensor_at_a_time(folder, tmp_path):
    peak = peak_of(lambda name: import_from_hugging_face(folder, tmp_path / name))
    assert LARGEST < peak < 1.5 * LARGEST


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_export_holds_one_tensor_at_a_time(folder, tmp_path, dtype):
    export = import_from_hugging_face(folder, tmp_path / "ours")
    write = lambda name: export_to_hugging_face(export, tmp_path / name, dtype=dtype)
    largest = LARGEST // (2 if dtype == "bfloat16" else 1)
    assert largest < peak_of(write) < 1.5 * largest
