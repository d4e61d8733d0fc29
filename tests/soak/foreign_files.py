"""A small file of every foreign format that salt_jax reads, and what reads it."""

import dataclasses
import gzip
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import zstandard
from etils import epath

from salt_jax import gin_config
from salt_jax.data import embedded
from salt_jax.data.corpora import corpus
from salt_jax.data.corpora.document import Fields, Limits
from salt_jax.data.reading.records import read_records
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.few_shot.documents import open_documents
from salt_jax.generation.prompts import prompts_of
from salt_jax.hugging_face.chat_template import read_chat_template
from salt_jax.hugging_face.importing import read_shape
from salt_jax.hugging_face.roles import read_roles
from salt_jax.hugging_face.safetensors_files import INDEX, SINGLE, open_tensors
from salt_jax.hugging_face.tokenizer_files import read_tokenizer
from tests import small_tokenizers

_LIMITS = Limits(max_document_bytes=1 << 20)
_LINES = b"".join(
    json.dumps({"text": f"Tree {i}.", "meta": {"pile_set_name": "A"}}).encode() + b"\n"
    for i in range(40)
)
_CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rope_theta": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 16,
    "tie_word_embeddings": True,
    "eos_token_id": [1, 2],
}


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A file, what reads it, and how its contents are packed."""

    path: pathlib.Path
    read: Callable[[], Any]
    is_json: bool = False
    plain: bytes = b""
    pack: Callable[[bytes], bytes] | None = None
    or_says: str = "^$"  # A pattern of refusals that need no file's name.


def _corpus(folder, name, data, **options):
    (folder / name).write_bytes(data)

    def read():
        (part,) = corpus.split_parts(str(folder), "train", limits=_LIMITS)
        return [x for block in part.blocks() for x in block.documents()]

    return Foreign(folder / name, read, **options)


def _jsonl(folder):
    return _corpus(folder, "train.jsonl", _LINES)


def _gzip(folder):
    pack = lambda data: gzip.compress(data, mtime=0)
    name = "train.jsonl.gz"
    return _corpus(folder, name, pack(_LINES), plain=_LINES, pack=pack)


def _zstd(folder):
    pack = zstandard.ZstdCompressor(write_checksum=True).compress
    name = "train.jsonl.zst"
    return _corpus(folder, name, pack(_LINES), plain=_LINES, pack=pack)


def _parquet(folder):
    table = pa.table({"text": ["abc def"] * 100, "source": ["A", "B"] * 50})
    pq.write_table(table, folder / "train.parquet", compression="zstd")

    def read():
        fields = Fields(domain="source")
        (part,) = corpus.split_parts(str(folder), "train", fields, limits=_LIMITS)
        return [x for block in part.blocks() for x in block.documents()]

    return Foreign(folder / "train.parquet", read)


def _questions(folder):
    lines = [json.dumps({"question": f"{i}?", "answer": i}) + "\n" for i in range(9)]
    (folder / "train.jsonl").write_text("".join(lines))
    read = lambda: read_records(
        str(folder), "train", ["question", "answer"], limits=_LIMITS
    )
    return Foreign(folder / "train.jsonl", read)


def _tfrecord(folder):
    import tensorflow as tf

    from salt_jax.data.corpora import tf_examples

    path = folder / "train.tfrecord"
    feature = lambda x: tf.train.Feature(bytes_list=tf.train.BytesList(value=[x]))
    features = {"text": feature(b"a tree"), "source": feature(b"A")}
    example = tf.train.Example(features=tf.train.Features(feature=features))
    with tf.io.TFRecordWriter(str(path)) as writer:
        for _ in range(20):
            writer.write(example.SerializeToString())
    spec = dict.fromkeys(("text", "source"), tf.io.FixedLenFeature((), tf.string))

    def read():
        with tf_examples.translate_errors(str(path)):
            examples = tf.data.TFRecordDataset([str(path)]).map(
                lambda x: tf.io.parse_single_example(x, spec)
            )
        fields = Fields(domain="source")
        blocks = tf_examples.in_blocks(examples, fields, str(path))
        return [x for block in blocks for x in block.documents()]

    return Foreign(path, read)


def _vocabulary_json(folder):
    path = small_tokenizers.write(folder / "v.json", small_tokenizers.spaces_written())
    return Foreign(path, lambda: _used(Vocabulary.open(path)), is_json=True)


def _sentencepiece(folder):
    path = folder / "v.model"
    shutil.copy(embedded.resolve("embedded:tokenizer/spm_4k.model"), path)
    return Foreign(path, lambda: _used(Vocabulary.open(path)))


def _used(vocabulary):
    """Uses a vocabulary as training and scoring do."""
    found = vocabulary.decode(vocabulary.encode("a tree </s> stands\n"))
    return vocabulary.is_lossless, vocabulary.byte_lengths().sum(), found


def _hugging_face(folder, name):
    """Returns a file of a folder with a tokenizer and a config."""
    small_tokenizers.byte_level().save(str(folder / "tokenizer.json"))
    roles = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": "{{x}}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    return folder / name


def _tokenizer_json(folder):
    path = _hugging_face(folder, "tokenizer.json")
    return Foreign(path, lambda: read_tokenizer(folder, vocab_size=320), is_json=True)


def _tokenizer_config(folder):
    path = _hugging_face(folder, "tokenizer_config.json")
    known = {"<|begin|>": 0, "<|end|>": 1, "<|pad|>": 2}

    def read():
        return read_roles(folder, known), read_chat_template(epath.Path(folder))

    return Foreign(path, read, is_json=True)


def _config(folder):
    path = _hugging_face(folder, "config.json")

    def read():
        known = {"<|begin|>": 0, "<|end|>": 1, "<|pad|>": 2}
        return read_shape(epath.Path(folder)), read_roles(folder, known)

    return Foreign(path, read, is_json=True)


def _tensors(folder):
    arrays = {f"model.{i}": np.ones((2, i + 1), np.float32) for i in range(5)}
    safetensors.numpy.save_file(arrays, folder / SINGLE)

    def read():
        return {name: x.read() for name, x in open_tensors(epath.Path(folder)).items()}

    return Foreign(folder / SINGLE, read)


def _index(folder):
    tensors = _tensors(folder)
    (folder / SINGLE).rename(folder / "a.safetensors")
    weight_map = {f"model.{i}": "a.safetensors" for i in range(5)}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return Foreign(folder / INDEX, tensors.read, is_json=True)


def _gin(folder):
    path = folder / "one.gin"
    path.write_text(pathlib.Path("gin/tiny_slm.gin").read_text())
    unset = "is not set: give --gin|must be bound|had no effect|must be|: '"
    return Foreign(path, lambda: gin_config.load([str(path)]), or_says=unset)


def _prompts(folder):
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{i}"}) + "\n" for i in range(9)))
    read = lambda: prompts_of(epath.Path(path).read_bytes(), where=str(path))
    return Foreign(path, read)


def _task_data(folder):
    for name in ("train", "test"):
        lines = [json.dumps({"question": f"{i}", "answer": i}) for i in range(9)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    read = lambda: open_documents(config_source=str(folder / "task.yaml"))
    return Foreign(folder / "test.jsonl", read)


_MAKERS = {
    "JSON lines": _jsonl,
    "JSON lines, gzip": _gzip,
    "JSON lines, zstd": _zstd,
    "Parquet": _parquet,
    "questions": _questions,
    "TFRecord examples": _tfrecord,
    "vocabulary.json": _vocabulary_json,
    "SentencePiece": _sentencepiece,
    "tokenizer.json": _tokenizer_json,
    "tokenizer_config.json": _tokenizer_config,
    "config.json": _config,
    "safetensors": _tensors,
    "safetensors index": _index,
    "gin file": _gin,
    "prompts": _prompts,
    "few-shot documents": _task_data,
}
READERS = tuple(_MAKERS)


def foreign_file(name: str, folder: pathlib.Path) -> Foreign:
    """Writes a small file of a format into `folder`; returns it with its reader."""
    return _MAKERS[name](folder)
