"""A prepared split as large as the Pile's, of links to one shard."""

import hashlib
import os
import pathlib

import numpy as np
from array_record.python import array_record_module

from salt_jax.data.corpora.document import Fields
from salt_jax.data.prepared import sequences
from salt_jax.data.prepared.manifest import DomainCounts, Manifest, Settings, Shard
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.vocabulary import Vocabulary

VOCABULARY = "embedded:tokenizer/spm_4k.model"
SEQ_LEN = 16
COUNT = 16_384  # Sequences in a shard.


def write_stand_in(folder, num_shards, seq_len=SEQ_LEN):
    """Writes the split "train" in `folder`; returns it as what a stage reads.

    Sequence i has i % COUNT in the place of each token, so that it is known when it
    is read. Every shard is a link to the first.
    """
    train = pathlib.Path(folder) / "train"
    train.mkdir(parents=True)
    names = [
        f"sequences-{i:05d}-of-{num_shards:05d}.array_record" for i in range(num_shards)
    ]
    first = train / names[0]
    _write_shard(first, seq_len)
    facts = {
        "count": COUNT,
        "sha256": hashlib.sha256(first.read_bytes()).hexdigest(),
        "num_bytes": first.stat().st_size,
        "first_sha256": hashlib.sha256(_record(0, seq_len)).hexdigest(),
    }
    for name in names[1:]:
        os.symlink(first, train / name)
    shards = tuple(Shard(name=name, **facts) for name in names)
    _manifest(shards, seq_len).write(train)
    return PreparedText(path=str(folder), vocabulary=VOCABULARY)


def _write_shard(path, seq_len):
    writer = array_record_module.ArrayRecordWriter(
        str(path), "group_size:1,uncompressed"
    )
    for number in range(COUNT):
        writer.write(_record(number, seq_len))
    writer.close()


def _record(number, seq_len):
    tokens = np.full(seq_len, number, "<u2")
    return sequences.to_record(np.zeros(1), np.zeros(1), tokens)


def _manifest(shards, seq_len):
    count = COUNT * len(shards)
    counts = DomainCounts(
        documents=count, tokens=count * seq_len, sequences=count, text_bytes=count
    )
    vocabulary = Vocabulary.open(VOCABULARY)
    return Manifest(
        settings=Settings(
            split="train",
            seq_len=seq_len,
            seed=0,
            sequences_per_shard=COUNT,
            vocabulary_fingerprint=vocabulary.fingerprint,
            corpus_fingerprint="0",
            fields=Fields(),
            domains=None,
        ),
        vocabulary_size=vocabulary.size,
        pad_id=vocabulary.pad_id,
        eos_id=vocabulary.eos_id,
        begin_id=vocabulary.begin_id,
        count=count,
        num_tokens=count * seq_len,
        num_bad_lines=0,
        domains=("Prose",),
        domain_counts=(counts,),
        shards=shards,
    )
