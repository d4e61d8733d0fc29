"""Whatever text goes in comes out, byte for byte, however it is prepared."""

import collections
import dataclasses
import gzip
import json
import pathlib
import tempfile

import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.preparing.prepare_split import MemoryLimits
from salt_jax.data.preparing.verify import verify
from salt_jax.data.vocabulary import Vocabulary
from tests.data.conftest import VOCABULARY
from tests.data.preparing.prepare_test import decoded_texts

# UTF-8 has no surrogates; SentencePiece writes a space as U+2581.
CHARACTERS = st.characters(codec="utf-8") | st.sampled_from("\0\u2581\ufffd \n\r\u2028")
TEXTS = st.text(CHARACTERS, max_size=80) | st.sampled_from(
    ["", "the ", "\u2581", "</s><pad>"]
)
DOCUMENTS = st.tuples(st.sampled_from(["A", "B c", "\u00fc\u2581", ""]), TEXTS)
# A text that is there both plain and compressed is refused: each name has one suffix.
FILES = (
    st.dictionaries(
        st.integers(0, 3),
        st.tuples(
            st.sampled_from(["", ".gz", ".zst"]), st.lists(DOCUMENTS, max_size=12)
        ),
        min_size=1,
        max_size=4,
    )
    .map(lambda of: {f"{i}.jsonl{suffix}": d for i, (suffix, d) in of.items()})
    .filter(lambda files: any(files.values()))
)
COMPRESS = {"jsonl": bytes, "gz": gzip.compress, "zst": zstandard.compress}


def write_file(path, documents, ensure_ascii):
    lines = [
        json.dumps(
            {"text": text, "meta": {"pile_set_name": domain}}, ensure_ascii=ensure_ascii
        )
        for domain, text in documents
    ]
    contents = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(COMPRESS[path.name.rpartition(".")[2]](contents))


@dataclasses.dataclass(frozen=True, kw_only=True)
class InBlocks(Preparation):
    """A preparation that reads so many bytes of a file at a time."""

    block_bytes: int

    def parts(self, split):
        parts = super().parts(split)
        return [dataclasses.replace(x, block_bytes=self.block_bytes) for x in parts]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    files=FILES,
    ensure_ascii=st.booleans(),
    seq_len=st.integers(2, 60),
    sequences_per_shard=st.integers(1, 50),
    seed=st.integers(-1, 3),
    block_bytes=st.sampled_from([1, 50, 1 << 17]),
    memory=st.builds(
        MemoryLimits,
        run_tokens=st.sampled_from([1, 100, 1 << 26]),
        bucket_tokens=st.sampled_from([50, 1 << 23]),
    ),
)
def test_any_corpus_comes_back_from_its_sequences_however_it_is_prepared(
    files, ensure_ascii, seq_len, sequences_per_shard, seed, block_bytes, memory
):
    with tempfile.TemporaryDirectory() as folder:
        corpus = pathlib.Path(folder) / "corpus"
        (corpus / "train").mkdir(parents=True)
        for name, documents in files.items():
            write_file(corpus / "train" / name, documents, ensure_ascii)
        preparation = InBlocks(
            block_bytes=block_bytes,
            corpus=str(corpus),
            vocabulary=VOCABULARY,
            output=str(pathlib.Path(folder) / "prepared"),
            seq_len=seq_len,
            seed=seed,
            splits=("train",),
            sequences_per_shard=max(sequences_per_shard, 400 // seq_len),
        )
        dataset = prepare(preparation, memory=memory)["train"]
        expected = collections.Counter(x for docs in files.values() for x in docs)
        assert decoded_texts(dataset, Vocabulary.open(VOCABULARY)) == expected
        assert not verify(preparation)
