import concurrent.futures
import dataclasses
import errno
import functools
import json
import os
import pathlib
import shutil
import threading

import numpy as np
import pytest
from etils import epath

from salt_jax.data.prepared import readers
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.preparing.prepare import prepare
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.vocabulary import Vocabulary
from salt_jax.files.reading import sha256_of
from salt_jax.files.records import write_record

AT_ONCE = readers.Retries(sleep=lambda seconds: None)


@pytest.fixture
def folder(preparation, prepared, tmp_path):
    """A copy of the prepared train split, to be damaged."""
    return pathlib.Path(
        shutil.copytree(pathlib.Path(preparation.output) / "train", tmp_path / "train")
    )


@pytest.fixture
def opened(monkeypatch):
    """The paths of shards, each as often as it was opened."""
    paths = []
    real = readers.array_record_module.ArrayRecordReader

    def open_and_note(path, *options):
        paths.append(path)
        return real(path, *options)

    module = readers.array_record_module
    monkeypatch.setattr(module, "ArrayRecordReader", open_and_note)
    return paths


def open_files(folder):
    """The shards of a folder of which this process holds a descriptor."""
    descriptors = pathlib.Path("/proc/self/fd").iterdir()
    links = [os.readlink(path) for path in descriptors if path.is_symlink()]
    return [link for link in links if link.startswith(str(folder))]


def shards_of(folder):
    return sorted(folder.glob("*.array_record"))


def test_sequences_come_in_the_order_of_the_ids_asked_for(train):
    everything = train.read(np.arange(len(train)))
    ids = np.array([len(train) - 1, 0, 45, 45, 29, 30])
    found = vars(train.read(ids))
    assert found.pop("begin_id") == everything.begin_id
    for name, read in found.items():
        expected = getattr(everything, name)
        np.testing.assert_array_equal(read, expected[ids])


def test_threads_read_the_same(train):
    ids = [np.arange(i, len(train), 7) for i in range(7)] * 8
    expected = [train.read(i).tokens for i in ids]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: train.read(i).tokens, ids))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_an_id_that_is_not_there_is_refused(offset, train):
    bad = -1 if offset < 0 else len(train) + offset
    with pytest.raises(ValueError, match=rf"No sequence {bad} in .*train: ids are 0"):
        train.read(np.array([0, bad]))


def test_the_fingerprint_is_of_the_contents_and_not_of_the_place(folder, train):
    assert PreparedDataset.open(folder).fingerprint == train.fingerprint


def test_the_splits_of_a_corpus_have_fingerprints_of_their_own(prepared):
    assert len({dataset.fingerprint for dataset in prepared.values()}) == 3


def test_data_that_is_not_prepared_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No prepared data at .*Run prepare"):
        PreparedDataset.open(tmp_path)


def test_a_missing_shard_is_refused_by_name(folder):
    shards_of(folder)[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"No shard at .*sequences-00001-of"):
        PreparedDataset.open(folder)


def test_several_missing_shards_are_counted(folder):
    first, *_, last = shards_of(folder)
    first.unlink(), last.unlink()
    with pytest.raises(FileNotFoundError, match=r"sequences-00000.* and 1 others"):
        PreparedDataset.open(folder)


def test_opening_a_dataset_opens_none_of_its_shards(folder, opened):
    dataset = PreparedDataset.open(folder)
    assert opened == []
    dataset.read(np.array([45, 40]))
    assert opened == [str(shards_of(folder)[1])]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="not Linux")
def test_few_shards_are_open_at_a_time(folder, train):
    dataset = PreparedDataset.open(folder, open_readers=readers.OpenReaders(2))
    ids = np.arange(len(dataset))
    assert len(shards_of(folder)) > 3
    found = dataset.read(ids).tokens
    assert len(open_files(folder)) == 2
    np.testing.assert_array_equal(found, train.read(ids).tokens)


def test_the_shards_used_last_stay_open(folder, opened):
    dataset = PreparedDataset.open(folder, open_readers=readers.OpenReaders(2))
    for shard in (0, 1, 0, 2, 0, 1):
        dataset.read(np.array([30 * shard]))
    names = [str(path) for path in shards_of(folder)]
    assert opened == [names[0], names[1], names[2], names[1]]


def test_a_batch_reads_its_shards_at_the_same_time(folder, train, monkeypatch):
    # Each read waits for the others to have begun.
    together = threading.Barrier(len(shards_of(folder)), timeout=20)
    read = readers.ShardReader.read

    def wait_and_read(self, places):
        together.wait()
        return read(self, places)

    monkeypatch.setattr(readers.ShardReader, "read", wait_and_read)
    ids = np.arange(len(train))
    found = PreparedDataset.open(folder).read(ids)
    monkeypatch.undo()
    np.testing.assert_array_equal(found.tokens, train.read(ids).tokens)


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_shard_cut_short_is_refused_when_its_split_is_opened(keep, folder):
    shard = shards_of(folder)[0]
    contents = shard.read_bytes()
    shard.write_bytes(contents[: int(keep * len(contents))])
    sizes = rf"{int(keep * len(contents)):,} bytes and should have {len(contents):,}\."
    with pytest.raises(ValueError, match=rf"sequences-00000-of.* has {sizes} Fetch"):
        PreparedDataset.open(folder)


def test_a_shard_in_the_place_of_another_is_refused_by_name(folder):
    first, second, *_ = shards_of(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    sizes = {path.stat().st_size for path in (first, second)}
    assert len(sizes) == 1 and manifest["shards"][0]["count"] == 30
    second.write_bytes(first.read_bytes())
    dataset = PreparedDataset.open(folder, retries=AT_ONCE)
    with pytest.raises(ValueError, match=r"sequences-00001-of.* is another shard"):
        dataset.read(np.array([35]))


def test_every_flipped_bit_of_a_shard_is_refused_or_changes_nothing(folder, train):
    shard = shards_of(folder)[0]
    whole, ids = shard.read_bytes(), np.arange(30)
    expected = train.read(ids).tokens
    for bit in range(0, 8 * len(whole), 8 * 1021 + 3):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        shard.write_bytes(flipped)
        try:
            found = PreparedDataset.open(folder, retries=AT_ONCE).read(ids).tokens
        except ValueError as error:
            assert shard.name in str(error)
        else:
            np.testing.assert_array_equal(found, expected)


def test_a_disk_that_fails_is_not_called_damage(folder, monkeypatch):
    dataset = PreparedDataset.open(folder, retries=AT_ONCE)

    def fail(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(readers.array_record_module, "ArrayRecordReader", fail)
    with pytest.raises(OSError, match=r"sequences-00000-of.* too many files are open"):
        dataset.read(np.array([0]))


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_shard_cut_short_is_refused_when_it_is_read(keep, folder, train):
    shard = shards_of(folder)[0]
    contents = shard.read_bytes()
    dataset = PreparedDataset.open(folder, retries=AT_ONCE)
    shard.write_bytes(contents[: int(keep * len(contents))])
    with pytest.raises(
        ValueError,
        match=rf"sequences-00000-of.* has {int(keep * len(contents)):,} bytes and "
        rf"should have {len(contents):,}, after 4 tries: fetch it again,.*--verify",
    ):
        dataset.read(np.array([31, 3]))
    np.testing.assert_array_equal(dataset.read([31]).tokens, train.read([31]).tokens)


def test_a_shard_with_another_count_is_refused_with_both(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    first, second = manifest["shards"][:2]
    first["count"], second["count"] = first["count"] - 1, second["count"] + 1
    write_record(folder / "manifest.json", manifest)
    with pytest.raises(ValueError, match="holds 30 sequences and should hold 29"):
        PreparedDataset.open(folder, retries=AT_ONCE).read(np.array([0]))


def test_a_shard_that_disappears_is_refused_by_name(folder):
    dataset = PreparedDataset.open(folder, retries=AT_ONCE)
    shards_of(folder)[2].unlink()
    with pytest.raises(ValueError, match=r"sequences-00002-of.* is missing.*fetch it"):
        dataset.read(np.array([61]))


@pytest.fixture
def large_shard(tmp_path):
    """A function that opens a shard larger than a buffer, and the shard's path."""
    path = tmp_path / "shard"
    module = readers.array_record_module
    writer = module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for number in range(3000):
        writer.write(number.to_bytes(4, "little") * 256)
    writer.close()
    size = path.stat().st_size
    open_shard = functools.partial(
        readers.ShardReader,
        epath.Path(path),
        count=3000,
        num_bytes=size,
        first_sha256=sha256_of(bytes(4 * 256)),
        sha256="",  # Compared for a file in a bucket.
    )
    return open_shard, path


def test_a_shard_that_is_cut_short_while_it_is_open_is_refused(large_shard):
    open_shard, path = large_shard
    reader = open_shard(retries=AT_ONCE)
    assert reader.read([2000])[0][:4] == (2000).to_bytes(4, "little")
    os.truncate(path, 100_000)
    with pytest.raises(ValueError, match="shard has 100,000 bytes and should have 3"):
        reader.read([2000])


def test_a_shard_that_is_made_whole_again_is_read_on(large_shard):
    open_shard, path = large_shard
    contents = path.read_bytes()
    restore = lambda seconds: path.write_bytes(contents)
    reader = open_shard(retries=readers.Retries(sleep=restore))
    reader.read([0])
    os.truncate(path, 100_000)
    assert reader.read([2000])[0][:4] == (2000).to_bytes(4, "little")


@pytest.mark.parametrize("tries", [1, 3])
def test_a_shard_that_comes_back_is_read_as_if_nothing_had_been(tries, folder, train):
    shard = shards_of(folder)[1]
    waited = []

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == tries:
            hidden.rename(shard)

    retries = readers.Retries((1.0, 2.0, 4.0), sleep=wait)
    dataset = PreparedDataset.open(folder, retries=retries)
    hidden = shard.rename(folder / "hidden")
    found = dataset.read(np.array([40])).tokens
    np.testing.assert_array_equal(found, train.read(np.array([40])).tokens)
    assert waited == [1.0, 2.0, 4.0][:tries]


def test_what_waits_gets_longer_and_is_over_in_seconds():
    seconds = readers.Retries().seconds
    assert sorted(set(seconds)) == list(seconds)
    assert 1.0 < sum(seconds) < 10.0


def test_no_ids_are_no_sequences(train):
    assert train.read(np.zeros(0, np.int64)).tokens.shape == (0, 16)


def test_a_damaged_sequence_is_refused_by_the_name_of_its_shard(folder, train):
    shard = shards_of(folder)[1]
    contents = bytearray(shard.read_bytes())
    tokens = train.read(np.array([40])).tokens.astype("<u2").tobytes()
    contents[contents.index(tokens) + 3] ^= 0xFF
    shard.write_bytes(contents)
    damaged = PreparedDataset.open(folder, retries=AT_ONCE)
    np.testing.assert_array_equal(damaged.read([39]).tokens, train.read([39]).tokens)
    with pytest.raises(ValueError, match=r"sequences-00001-of.* is damaged"):
        damaged.read(np.array([40]))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"settings": {}}'])
def test_a_damaged_manifest_is_refused_by_name(text, folder):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json .*prepare it again"):
        PreparedDataset.open(folder)


def test_another_format_is_refused_with_both_versions(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"]["format_version"] = 7
    write_record(folder / "manifest.json", manifest)
    with pytest.raises(ValueError, match=r"of format 7, .* reads format 3"):
        PreparedDataset.open(folder)


def test_a_manifest_that_lacks_a_shard_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    count = manifest["count"]
    manifest["shards"].pop()
    write_record(folder / "manifest.json", manifest)
    with pytest.raises(ValueError, match=f"counts {count} sequences, and its shards"):
        PreparedDataset.open(folder)


def test_a_prepared_text_opens_its_split(preparation, prepared_text, prepared):
    validation = dataclasses.replace(prepared_text, split="val")
    dataset = validation.open(seq_len=preparation.seq_len)
    assert dataset.fingerprint == prepared["val"].fingerprint


@pytest.mark.parametrize("seq_len", [8, 15, 17, 32])
def test_another_sequence_length_is_refused_with_both(seq_len, prepared_text):
    with pytest.raises(
        ValueError, match=rf"seq_len=16, not {seq_len};.* again with seq_len={seq_len}"
    ):
        prepared_text.open(seq_len=seq_len)


def test_another_vocabulary_is_refused_with_both_fingerprints(
    own_preparation, tmp_path
):
    original = Vocabulary.open(own_preparation.vocabulary)
    prepare(own_preparation)
    other = tmp_path / "other.model"
    # An unknown field, which a reader of the format skips.
    other.write_bytes(original.path.read_bytes() + b"\xc2\x3e\x01x")
    prepared_text = PreparedText(path=own_preparation.output, vocabulary=str(other))
    expected = (
        rf"{original.fingerprint[:12]}, and .*other\.model is "
        rf"{Vocabulary.open(other).fingerprint[:12]}"
    )
    with pytest.raises(ValueError, match=expected):
        prepared_text.open(seq_len=own_preparation.seq_len)
