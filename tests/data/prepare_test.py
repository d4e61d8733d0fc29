import collections
import dataclasses
import json
import pathlib
import resource

import numpy as np
import pytest
import zstandard

from salt_jax.data import corpus
from salt_jax.data.dataset import PreparedDataset
from salt_jax.data.prepare import Preparation, prepare
from salt_jax.data.vocabulary import Vocabulary

DOCUMENT = '{"text": "fine", "meta": {"pile_set_name": "Github"}}'


def texts_of(source, split):
    """Returns how often each text occurs in a split of a corpus."""
    return collections.Counter(
        corpus.parse_document(line).text
        for file in corpus.split_files(source, split)
        for block in corpus.read_lines(file)
        for line in block.lines
    )


def decoded_texts(dataset, vocabulary):
    """Returns how often each text occurs in the sequences of a prepared split."""
    sequences = dataset.read(np.arange(len(dataset)))
    tokens = sequences.tokens[sequences.segments > 0]
    (ends,) = np.nonzero(tokens == vocabulary.eos_id)
    assert ends[-1] == len(tokens) - 1
    documents = np.split(tokens, ends + 1)[:-1]
    return collections.Counter(vocabulary.decode(tokens[:-1]) for tokens in documents)


def files_of(folder):
    folder = pathlib.Path(folder)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def spoil(preparation, *lines):
    """Replaces the val split by a file of `lines`, and returns the file."""
    path = pathlib.Path(preparation.corpus) / "val.jsonl.zst"
    path.write_bytes(zstandard.compress("\n".join(lines).encode("latin-1")))
    return path


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_document_comes_back_from_the_sequences(split, preparation, prepared):
    vocabulary = Vocabulary.open(preparation.vocabulary)
    found = decoded_texts(prepared[split], vocabulary)
    assert found == texts_of(preparation.corpus, split)


def test_every_embedded_document_held_out_comes_back_from_the_sequences(tmp_path):
    preparation = Preparation(
        corpus="embedded:minipile",
        vocabulary="embedded:tokenizer/spm_4k.model",
        output=str(tmp_path),
        seq_len=128,
        splits=("val", "test"),
    )
    vocabulary = Vocabulary.open(preparation.vocabulary)
    for split, dataset in prepare(preparation).items():
        assert decoded_texts(dataset, vocabulary) == texts_of(
            "embedded:minipile", split
        )


def test_documents_are_shuffled_over_files_and_domains(train):
    sequences = train.read(np.arange(len(train)))
    starts = (sequences.positions == 0) & (sequences.segments > 0)
    domains = sequences.domains[starts]
    # The corpus has its three domains in turn.
    assert np.mean(np.diff(domains) % 3 == 1) < 0.6


def test_another_seed_gives_another_order(own_preparation):
    first = prepare(own_preparation)["train"]
    other = dataclasses.replace(
        own_preparation, seed=1, output=own_preparation.output + "_other"
    )
    second = prepare(other)["train"]
    ids = np.arange(len(first))
    assert not np.array_equal(first.read(ids).tokens, second.read(ids).tokens)


def test_only_the_last_sequence_is_padded(train):
    sequences = train.read(np.arange(len(train)))
    lengths = (sequences.segments > 0).sum(axis=1)
    np.testing.assert_array_equal(lengths[:-1], train.manifest.seq_len)
    assert lengths.sum() == train.manifest.num_tokens


def test_the_manifest_counts_what_the_sequences_hold(preparation, train):
    manifest = train.manifest
    sequences = train.read(np.arange(len(train)))
    texts = collections.defaultdict(list)
    for file in corpus.split_files(preparation.corpus, "train"):
        for block in corpus.read_lines(file):
            for line in block.lines:
                document = corpus.parse_document(line)
                texts[document.domain].append(document.text)
    assert manifest.domains == tuple(sorted(texts))
    for index, counts in enumerate(manifest.domain_counts):
        documents = texts[manifest.domains[index]]
        is_here = sequences.domains == index
        assert dataclasses.asdict(counts) == {
            "documents": len(documents),
            "tokens": is_here.sum(),
            "sequences": is_here.any(axis=1).sum(),
            "text_bytes": sum(len(text.encode()) for text in documents),
        }


@pytest.mark.parametrize("num_threads", [1, 5])
def test_the_bytes_do_not_depend_on_the_number_of_threads(
    num_threads, preparation, prepared, tmp_path
):
    other = dataclasses.replace(
        preparation, num_threads=num_threads, output=str(tmp_path)
    )
    prepare(other)
    assert files_of(tmp_path) == files_of(preparation.output)


def test_a_second_run_says_complete_and_changes_nothing(preparation, prepared):
    def state():
        paths = pathlib.Path(preparation.output).rglob("*")
        return {path: path.stat().st_mtime_ns for path in paths}

    before, lines = state(), []
    prepare(preparation, lines.append)
    assert (state(), len(lines)) == (before, 3)
    assert all(line.endswith("is complete.") for line in lines)


def test_a_killed_run_goes_on_with_the_splits_it_lacks(
    own_preparation, preparation, prepared, monkeypatch
):
    def killed(**fields):
        raise KeyboardInterrupt

    prepare(dataclasses.replace(own_preparation, splits=("train",)))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        # The next split dies with its shards written and its manifest not.
        patch.setattr("salt_jax.data.prepare.Manifest", killed)
        prepare(own_preparation)
    # What it leaves may be of other settings.
    partial = pathlib.Path(own_preparation.output) / ".val.partial"
    (partial / "sequences-00009-of-00010.array_record").write_bytes(b"stale")
    lines = []
    prepare(own_preparation, lines.append)
    assert lines[0].endswith("train is complete.")
    assert files_of(own_preparation.output) == files_of(preparation.output)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seq_len": 32}, "seq_len=16, not 32"),
        ({"seed": 1}, "seed=0, not 1"),
        ({"sequences_per_shard": 7}, "sequences_per_shard=30, not 7"),
    ],
)
def test_other_settings_are_refused_by_name_and_overwrite_nothing(
    change, named, preparation, prepared
):
    before = files_of(preparation.output)
    with pytest.raises(ValueError, match=named):
        prepare(dataclasses.replace(preparation, **change))
    assert files_of(preparation.output) == before


def test_a_changed_corpus_is_refused(own_preparation):
    prepare(own_preparation)
    spoil(own_preparation, DOCUMENT)
    with pytest.raises(ValueError, match="corpus_fingerprint="):
        prepare(own_preparation)


def test_a_folder_that_prepare_did_not_write_is_refused(own_preparation):
    (pathlib.Path(own_preparation.output) / "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing"):
        prepare(own_preparation)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{'text': 1}", "not JSON"),
        ('{"meta": {"pile_set_name": "Github"}}', "no 'text'"),
        ('{"text": "\xff", "meta": {"pile_set_name": "Github"}}', "not UTF-8"),
    ],
)
def test_too_many_bad_lines_are_refused_with_file_and_line(
    line, reason, own_preparation
):
    path = spoil(own_preparation, DOCUMENT, DOCUMENT, line, DOCUMENT)
    with pytest.raises(ValueError, match=rf"1 of 4 lines .*{path}:3: {reason}"):
        prepare(own_preparation)
    assert not (pathlib.Path(own_preparation.output) / "val").exists()


def test_bad_lines_within_the_share_are_left_out_counted_and_reported(own_preparation):
    path = spoil(own_preparation, DOCUMENT, DOCUMENT, "???", DOCUMENT)
    lines = []
    lenient = dataclasses.replace(own_preparation, max_bad_share=0.25)
    dataset = prepare(lenient, lines.append)["val"]
    assert (dataset.manifest.num_bad_lines, len(dataset)) == (1, 1)
    assert any(
        f"1 of 4 lines are no documents; the first is {path}:3" in x for x in lines
    )


def test_a_corpus_cut_short_is_refused_by_name(own_preparation):
    path = pathlib.Path(own_preparation.corpus) / "train" / "01.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=rf"{path} is cut short"):
        prepare(own_preparation)


def test_a_full_disk_leaves_no_split_and_the_next_run_writes_it(
    own_preparation, preparation, prepared
):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r"Cannot write .*sequences-00000.* Make room"
        ):
            prepare(own_preparation)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (pathlib.Path(own_preparation.output) / "train").exists()
    prepare(own_preparation)
    assert files_of(own_preparation.output) == files_of(preparation.output)


@pytest.mark.parametrize("contents", [b"", zstandard.compress(b"")])
def test_an_empty_corpus_is_refused_by_name(contents, own_preparation):
    path = pathlib.Path(own_preparation.corpus) / "val.jsonl.zst"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=rf"No lines in .*{path}"):
        prepare(own_preparation)


def test_a_missing_split_is_refused_before_anything_is_written(own_preparation):
    (pathlib.Path(own_preparation.corpus) / "test.jsonl.zst").unlink()
    with pytest.raises(FileNotFoundError, match="no split 'test'"):
        prepare(own_preparation)
    assert not pathlib.Path(own_preparation.output).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seq_len": 1}, "seq_len must be at least 2, got 1"),
        ({"max_bad_share": 1.0}, r"max_bad_share must be in \[0, 1\), got 1.0"),
        ({"num_threads": 0}, "num_threads must be at least 1, got 0"),
        ({"splits": "train"}, "names in a tuple, got 'train'"),
    ],
)
def test_a_preparation_that_cannot_be_is_refused(change, message, preparation):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(preparation, **change)


def test_shards_hold_as_many_sequences_as_they_say(preparation, train):
    counts = [shard.count for shard in train.manifest.shards]
    assert set(counts[:-1]) == {preparation.sequences_per_shard}
    assert len(counts) > 2
    assert 0 < counts[-1] <= preparation.sequences_per_shard


def test_a_large_vocabulary_needs_wider_tokens(own_preparation, monkeypatch):
    expected = prepare(own_preparation)["val"]
    sequences = expected.read(np.arange(len(expected)))
    monkeypatch.setattr(Vocabulary, "size", 1 << 17)
    wide = dataclasses.replace(own_preparation, output=own_preparation.output + "_wide")
    prepare(wide)
    dataset = PreparedDataset.open(pathlib.Path(wide.output) / "val")
    assert json.loads(dataset.manifest.to_json())["vocabulary_size"] == 1 << 17
    tokens = dataset.read(np.arange(len(dataset))).tokens
    np.testing.assert_array_equal(tokens, sequences.tokens)
