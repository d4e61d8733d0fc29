"""A small corpus, and what `prepare` makes of it."""

import dataclasses
import json
import random

import pytest
import zstandard

from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.reading.prepared_text import PreparedText

VOCABULARY = "embedded:tokenizer/spm_4k.model"
SEQ_LEN = 16
DOMAINS = ("Github", "Jargon File", "KJV Bible")
WORDS = [
    "the",
    "begat",
    "42",
    "def",
    "return:",
    "(x)",
    "lo!\n\n",
    "\u00dcber",
    "\t\u2603",
]


def make_lines(count, seed):
    draw = random.Random(seed)
    for index in range(count):
        text = " ".join(draw.choices(WORDS, k=draw.randint(0, 60)))
        yield json.dumps({"text": text, "meta": {"pile_set_name": DOMAINS[index % 3]}})


def write_zst(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    # A frame a line: each is read on its own, whatever is read at a time.
    frames = [zstandard.compress(f"{line}\n".encode()) for line in lines]
    path.write_bytes(b"".join(frames) or zstandard.compress(b""))


def write_corpus(root):
    """Writes a corpus of 60 + 20 + 10 documents, its train split in two files."""
    write_zst(root / "train" / "00.jsonl.zst", make_lines(40, seed=0))
    write_zst(root / "train" / "01.jsonl.zst", make_lines(20, seed=1))
    write_zst(root / "val.jsonl.zst", make_lines(20, seed=2))
    write_zst(root / "test.jsonl.zst", make_lines(10, seed=3))
    return root


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def preparation(corpus, tmp_path_factory):
    return Preparation(
        corpus=str(corpus),
        vocabulary=VOCABULARY,
        output=str(tmp_path_factory.mktemp("prepared")),
        seq_len=SEQ_LEN,
        sequences_per_shard=30,
    )


@pytest.fixture
def own_preparation(preparation, tmp_path):
    """The same, for a test that changes what it reads or writes."""
    return dataclasses.replace(
        preparation,
        corpus=str(write_corpus(tmp_path / "corpus")),
        output=str(tmp_path / "prepared"),
    )


@pytest.fixture(scope="session")
def prepared(preparation):
    return prepare(preparation)


@pytest.fixture(scope="session")
def train(prepared):
    return prepared["train"]


@pytest.fixture(scope="session")
def prepared_text(preparation, prepared):
    return PreparedText(path=preparation.output, vocabulary=VOCABULARY)
