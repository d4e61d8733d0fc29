import collections
import dataclasses
import json
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zstandard

from salt_jax.data.corpora import corpus
from salt_jax.data.corpora.document import Fields
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.preparing import prepare_split
from salt_jax.data.preparing.prepare import Preparation, prepare
from salt_jax.data.preparing.prepare_split import MemoryLimits
from salt_jax.data.vocabulary import Vocabulary
from tests.data.conftest import SEQ_LEN

DOCUMENT = '{"text": "fine", "meta": {"pile_set_name": "Github"}}'


def documents_of(source, split):
    """Returns the documents of a split of a corpus."""
    return [
        document
        for part in corpus.split_parts(source, split)
        for block in part.blocks()
        for _, document in block.documents()
    ]


def texts_of(source, split):
    """Returns how often each text occurs in each domain of a split of a corpus."""
    return collections.Counter(
        (document.domain, document.text) for document in documents_of(source, split)
    )


def decoded_texts(dataset, vocabulary):
    """Returns the same of the sequences of a prepared split."""
    sequences = dataset.read(np.arange(len(dataset)))
    is_token = sequences.segments > 0
    tokens, domains = sequences.tokens[is_token], sequences.domains[is_token]
    (ends,) = np.nonzero(tokens == vocabulary.eos_id)
    assert ends[-1] == len(tokens) - 1
    found = collections.Counter()
    for begin, end in zip([0, *ends[:-1] + 1], ends, strict=True):
        (domain,) = np.unique(domains[begin : end + 1])
        text = vocabulary.decode(tokens[begin:end])
        found[dataset.manifest.domains[domain], text] += 1
    return found


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
    for document in documents_of(preparation.corpus, "train"):
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


@pytest.mark.parametrize(
    "workers",
    [
        {"num_threads": 1},
        {"num_threads": 5},
        {"num_processes": 3},
        {"num_processes": 2, "num_threads": 2},
    ],
)
def test_the_bytes_do_not_depend_on_how_many_work_together(
    workers, preparation, prepared, tmp_path
):
    prepare(dataclasses.replace(preparation, output=str(tmp_path), **workers))
    assert files_of(tmp_path) == files_of(preparation.output)


def runs_of(preparation, split):
    folder = pathlib.Path(preparation.output) / f".{split}.partial" / "runs"
    return list(folder.glob("*.keys.npy"))


@pytest.mark.parametrize(
    ("run_tokens", "bucket_tokens"),
    [(1, 200), (700, 1_000), (1, 1 << 23), (1 << 26, 200)],
)
def test_the_bytes_do_not_depend_on_what_is_in_memory(
    run_tokens, bucket_tokens, preparation, prepared, tmp_path
):
    memory = MemoryLimits(run_tokens=run_tokens, bucket_tokens=bucket_tokens)
    own = dataclasses.replace(preparation, output=str(tmp_path))
    num_runs = {}

    def count(line):
        if line.startswith("Writing 'train'"):
            num_runs["train"] = len(runs_of(own, "train"))

    prepare(own, count, memory=memory)
    assert files_of(tmp_path) == files_of(preparation.output)
    at_least, at_most = {1: (60, 60), 700: (4, 59), 1 << 26: (2, 2)}[run_tokens]
    assert at_least <= num_runs["train"] <= at_most


PREPARE_AND_DIE = """
import os, signal, sys
from salt_jax.data.preparing import prepare_split
from salt_jax.data.preparing import shard_writing
from salt_jax.data.preparing import sorted_runs
from salt_jax.data.prepared import sequences
from salt_jax.data.preparing.prepare import Preparation, prepare

memory = prepare_split.MemoryLimits(run_tokens=1, bucket_tokens=300)
calls = 0

def dies(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

{target} = dies({target})
prepare(Preparation(**{fields!r}), memory=memory)
"""


@pytest.mark.parametrize(
    ("target", "at", "num_parts", "num_shards"),
    [
        ("sorted_runs._write_tokens", 3, 0, 0),  # The first part is half written.
        ("sorted_runs._write_tokens", 43, 1, 0),  # The second is.
        ("prepare_split.MergePlan.of", 1, 2, 0),
        ("shard_writing.write_shard", 3, 2, 2),
        ("sequences.to_record", 70, 2, 2),  # The third is half written.
        ("prepare_split.assemble", 1, 2, 11),
    ],
)
def test_a_run_that_was_killed_is_gone_on_with_and_ends_the_same(
    target, at, num_parts, num_shards, own_preparation, preparation, prepared
):
    fields = {
        name: getattr(own_preparation, name)
        for name in ("corpus", "vocabulary", "output", "seq_len", "sequences_per_shard")
    }
    program = PREPARE_AND_DIE.format(
        target=target,
        at=at,
        fields=fields | {"num_threads": 1},
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    lines = []
    prepare(own_preparation, lines.append)
    total = len(prepared["train"].manifest.shards)
    assert lines[:2] == [
        f"Resuming {own_preparation.output}/train.",
        f"Tokenizing 'train': {2 - num_parts} of 2 parts to read.",
    ]
    assert f"Writing 'train': {total - num_shards} of {total} shards to write." in lines
    assert files_of(own_preparation.output) == files_of(preparation.output)


def test_a_shard_that_is_not_as_its_report_says_is_written_again(
    own_preparation, preparation, prepared, monkeypatch
):
    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_split, "assemble", stopped)
        prepare(own_preparation)
    folder = pathlib.Path(own_preparation.output) / ".train.partial" / "split"
    first, second, third, *others = sorted(folder.iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    flipped = bytearray(third.read_bytes())
    flipped[1000] ^= 1
    third.write_bytes(flipped)
    lines = []
    prepare(own_preparation, lines.append)
    total = 3 + len(others)
    assert f"Writing 'train': 3 of {total} shards to write." in lines
    assert files_of(own_preparation.output) == files_of(preparation.output)


def test_a_run_that_is_not_as_its_part_says_is_written_again(
    own_preparation, preparation, prepared, monkeypatch
):
    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_split, "check", stopped)
        prepare(own_preparation)
    folder = pathlib.Path(own_preparation.output) / ".train.partial" / "runs"
    path = folder / "part-00001-run-00000.tokens.npy"
    flipped = bytearray(path.read_bytes())
    flipped[-7] ^= 4
    path.write_bytes(flipped)
    lines = []
    prepare(own_preparation, lines.append)
    assert "Tokenizing 'train': 1 of 2 parts to read." in lines
    assert files_of(own_preparation.output) == files_of(preparation.output)


@pytest.mark.parametrize("damage", [lambda x: x[: len(x) // 2], lambda x: x[::-1]])
def test_what_is_damaged_is_not_called_complete(damage, own_preparation):
    prepare(own_preparation)
    *_, path = pathlib.Path(own_preparation.output, "val").glob("*.array_record")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path} is damaged"):
        prepare(own_preparation)


def test_what_is_half_done_with_another_seed_is_done_again(
    own_preparation, preparation, prepared
):
    def stop(line):
        if line.startswith("Writing"):
            raise KeyboardInterrupt

    memory = MemoryLimits(run_tokens=1, bucket_tokens=200)
    with pytest.raises(KeyboardInterrupt):
        prepare(dataclasses.replace(own_preparation, seed=3), stop, memory=memory)
    assert len(runs_of(own_preparation, "train")) > 10
    lines = []
    prepare(own_preparation, lines.append)
    assert "the corpus or the settings have changed" in lines[0]
    assert "Tokenizing 'train': 2 of 2 parts to read." in lines
    assert files_of(own_preparation.output) == files_of(preparation.output)


@pytest.mark.parametrize("seq_len", [SEQ_LEN, 2 * SEQ_LEN])
def test_parts_stay_done_when_another_is_mended_or_the_length_changes(
    seq_len, own_preparation, tmp_path
):
    path = pathlib.Path(own_preparation.corpus) / "train" / "01.jsonl.zst"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match="is truncated"):
        prepare(own_preparation)
    path.write_bytes(whole)
    mended = dataclasses.replace(own_preparation, seq_len=seq_len)
    lines = []
    prepare(mended, lines.append)
    assert "Tokenizing 'train': 1 of 2 parts to read." in lines
    fresh = dataclasses.replace(mended, output=str(tmp_path / "fresh"))
    prepare(fresh)
    assert files_of(mended.output) == files_of(fresh.output)


def test_two_at_once_are_refused(own_preparation):
    seen = []

    def begin_another(line):
        if line.startswith("Writing 'train'") and not seen:
            seen.append(line)
            with pytest.raises(ValueError, match="Another process .*train.partial"):
                prepare(own_preparation)

    prepare(own_preparation, begin_another)
    assert seen


@pytest.mark.slow
def test_when_a_run_is_killed_its_other_processes_end_too(own_preparation):
    work = "import time; from salt_jax.data.preparing.workers import WorkerPool\n"
    work += "list(WorkerPool(2, 1).each(time.sleep, [(600,), (600,)]))"
    with subprocess.Popen([sys.executable, "-c", work], start_new_session=True) as run:
        children = pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children")
        deadline = time.monotonic() + 60
        while len(others := children.read_text().split()) < 3:  # And a tracker.
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3.0)  # They are there, and now at work.
        run.kill()
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in others):
        assert time.monotonic() < deadline, "a process outlived the one that began it"
        time.sleep(0.1)


def test_what_a_run_left_that_was_killed_at_its_very_end_is_deleted(
    own_preparation, prepared, preparation
):
    prepare(own_preparation)
    left = pathlib.Path(own_preparation.output) / ".train.partial" / "runs"
    left.mkdir(parents=True)
    (left / "part-00000-run-00000.keys.npy").write_bytes(b"large")
    prepare(own_preparation)
    assert files_of(own_preparation.output) == files_of(preparation.output)


def test_what_was_killed_at_its_very_end_and_deleted_since_is_prepared_again(
    own_preparation, prepared, preparation, monkeypatch
):
    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare_split.SplitWork, "tidy", killed)
        prepare(own_preparation)
    shutil.rmtree(pathlib.Path(own_preparation.output) / "train")
    prepare(own_preparation)
    assert files_of(own_preparation.output) == files_of(preparation.output)


def test_an_error_in_another_process_is_the_same_line(own_preparation):
    path = pathlib.Path(own_preparation.corpus) / "train" / "01.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=rf"^{path} is truncated: fetch or make"):
        prepare(dataclasses.replace(own_preparation, num_processes=2))


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
        patch.setattr("salt_jax.data.preparing.assemble.Manifest", killed)
        prepare(own_preparation)
    partial = pathlib.Path(own_preparation.output) / ".val.partial" / "split"
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
        ("[3]", "no 'text'"),
        ('{"text": ["a"], "meta": {}}', "'text' is of type list"),
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
    with pytest.raises(ValueError, match=rf"{path} is truncated"):
        prepare(own_preparation)


@pytest.mark.parametrize(
    ("when", "named"), [("Tokenizing", "part-00000-run"), ("Writing", "sequences-0000")]
)
def test_a_full_disk_leaves_no_split_and_the_next_run_writes_it(
    when, named, own_preparation, preparation, prepared
):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(line):
        if line.startswith(when):
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))

    try:
        with pytest.raises(OSError, match=rf"Cannot write .*{named}.* Make room"):
            prepare(own_preparation, fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (pathlib.Path(own_preparation.output) / "train").exists()
    prepare(own_preparation)
    assert files_of(own_preparation.output) == files_of(preparation.output)


def test_only_the_domains_that_are_asked_for_are_kept(own_preparation):
    wanted = dataclasses.replace(own_preparation, domains=("KJV Bible", "Github"))
    vocabulary = Vocabulary.open(own_preparation.vocabulary)
    for split, dataset in prepare(wanted).items():
        expected = {
            (domain, text): count
            for (domain, text), count in texts_of(own_preparation.corpus, split).items()
            if domain != "Jargon File"
        }
        assert decoded_texts(dataset, vocabulary) == expected
        assert dataset.manifest.domains == ("Github", "KJV Bible")


def test_the_order_of_the_domains_that_are_asked_for_changes_nothing(own_preparation):
    prepare(dataclasses.replace(own_preparation, domains=("KJV Bible", "Github")))
    lines = []
    other = dataclasses.replace(own_preparation, domains=("Github", "KJV Bible"))
    prepare(other, lines.append)
    assert all(line.endswith("is complete.") for line in lines)


def test_a_domain_that_the_corpus_lacks_is_refused_with_those_it_has(own_preparation):
    wanted = dataclasses.replace(own_preparation, domains=("Github", "Gitlab"))
    with pytest.raises(
        ValueError,
        match="'train' has no document of the domain 'Gitlab': its domains are "
        "Github, Jargon File, KJV Bible",
    ):
        prepare(wanted)


def test_text_and_domain_may_be_in_other_fields(own_preparation):
    lines = [
        json.dumps({"doc": {"body": f"text {i}"}} | ({"source": "A"} if i % 2 else {}))
        for i in range(20)
    ]
    spoil(own_preparation, *lines)
    fields = Fields(text="doc.body", domain="source", default_domain="none")
    wanted = dataclasses.replace(own_preparation, fields=fields, splits=("val",))
    dataset = prepare(wanted)["val"]
    vocabulary = Vocabulary.open(own_preparation.vocabulary)
    expected = {("A" if i % 2 else "none", f"text {i}"): 1 for i in range(20)}
    assert decoded_texts(dataset, vocabulary) == expected
    assert dataset.manifest.settings.fields == fields
    with pytest.raises(ValueError, match="fields="):
        prepare(dataclasses.replace(wanted, fields=Fields(text="doc.body")))


def test_an_empty_document_is_one_end_token(own_preparation):
    empty = json.dumps({"text": "", "meta": {"pile_set_name": "Github"}})
    spoil(own_preparation, empty, empty, empty)
    dataset = prepare(dataclasses.replace(own_preparation, splits=("val",)))["val"]
    (counts,) = dataset.manifest.domain_counts
    assert dataclasses.asdict(counts) == {
        "documents": 3,
        "tokens": 3,
        "sequences": 1,
        "text_bytes": 0,
    }


def test_nul_bytes_are_kept(own_preparation):
    text = "\0 a\0\0b"
    spoil(
        own_preparation, json.dumps({"text": text, "meta": {"pile_set_name": "Github"}})
    )
    dataset = prepare(dataclasses.replace(own_preparation, splits=("val",)))["val"]
    vocabulary = Vocabulary.open(own_preparation.vocabulary)
    assert decoded_texts(dataset, vocabulary) == {("Github", text): 1}


@pytest.mark.slow
def test_a_line_of_50_megabytes_comes_back(own_preparation):
    text = "so it goes,\n\0and goes on; " * 2_000_000 + "\u2581"
    assert len(text) > 50_000_000
    spoil(
        own_preparation, json.dumps({"text": text, "meta": {"pile_set_name": "Github"}})
    )
    long = dataclasses.replace(own_preparation, splits=("val",), seq_len=1 << 16)
    vocabulary = Vocabulary.open(own_preparation.vocabulary)
    assert decoded_texts(prepare(long)["val"], vocabulary) == {("Github", text): 1}


def test_an_empty_corpus_is_refused_by_name(own_preparation):
    path = pathlib.Path(own_preparation.corpus) / "val.jsonl.zst"
    path.write_bytes(zstandard.compress(b""))
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
        ({"corpus": None}, "corpus must be a path or a name, got None"),
        ({"fields": "text"}, "fields must be a Fields.* got 'text'"),
        ({"num_processes": 0}, "num_processes must be at least 1, got 0"),
        ({"splits": "train"}, "splits must be names in a tuple, got 'train'"),
        ({"domains": "Github"}, "domains must be names in a tuple, got 'Github'"),
        ({"domains": ()}, r"domains must be names in a tuple, got \(\)"),
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
    assert dataset.manifest.vocabulary_size == 1 << 17
    tokens = dataset.read(np.arange(len(dataset))).tokens
    np.testing.assert_array_equal(tokens, sequences.tokens)
