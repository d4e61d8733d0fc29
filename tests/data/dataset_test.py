import concurrent.futures
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest

from salt_jax.data.dataset import PreparedDataset
from salt_jax.data.pile import Pile
from salt_jax.data.prepare import prepare
from salt_jax.data.vocabulary import Vocabulary


@pytest.fixture
def folder(preparation, prepared, tmp_path):
    """A copy of the prepared train split, to be damaged."""
    return pathlib.Path(
        shutil.copytree(pathlib.Path(preparation.output) / "train", tmp_path / "train")
    )


def shards_of(folder):
    return sorted(folder.glob("*.array_record"))


def test_sequences_come_in_the_order_of_the_ids_asked_for(train):
    everything = train.read(np.arange(len(train)))
    ids = np.array([len(train) - 1, 0, 45, 45, 29, 30])
    for name, expected in vars(everything).items():
        np.testing.assert_array_equal(getattr(train.read(ids), name), expected[ids])


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


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_shard_cut_short_is_refused_on_opening(keep, folder):
    shard = shards_of(folder)[0]
    contents = shard.read_bytes()
    shard.write_bytes(contents[: int(keep * len(contents))])
    with pytest.raises(ValueError, match=r"sequences-00000-of.* should hold 30"):
        PreparedDataset.open(folder)


def test_a_damaged_sequence_is_refused_by_the_name_of_its_shard(folder, train):
    shard = shards_of(folder)[1]
    contents = bytearray(shard.read_bytes())
    tokens = train.read(np.array([40])).tokens.astype("<u2").tobytes()
    contents[contents.index(tokens) + 3] ^= 0xFF
    shard.write_bytes(contents)
    damaged = PreparedDataset.open(folder)
    np.testing.assert_array_equal(damaged.read([39]).tokens, train.read([39]).tokens)
    with pytest.raises(ValueError, match=r"sequences-00001-of.* is damaged"):
        damaged.read(np.array([40]))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"settings": {}}'])
def test_a_damaged_manifest_is_refused_by_name(text, folder):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        PreparedDataset.open(folder)


def test_another_format_is_refused_with_both_versions(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["settings"]["format_version"] = 7
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"prepared in format 7, .* reads format 1"):
        PreparedDataset.open(folder)


def test_a_manifest_that_lacks_a_shard_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    count = manifest["count"]
    manifest["shards"].pop()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=f"counts {count} sequences, and its shards"):
        PreparedDataset.open(folder)


def test_a_pile_opens_its_split(preparation, pile, prepared):
    validation = dataclasses.replace(pile, split="val")
    dataset = validation.open(seq_len=preparation.seq_len)
    assert dataset.fingerprint == prepared["val"].fingerprint


@pytest.mark.parametrize("seq_len", [8, 15, 17, 32])
def test_another_sequence_length_is_refused_with_both(seq_len, pile):
    with pytest.raises(
        ValueError, match=rf"seq_len=16, not {seq_len};.* again with seq_len={seq_len}"
    ):
        pile.open(seq_len=seq_len)


def test_another_vocabulary_is_refused_with_both_fingerprints(
    own_preparation, tmp_path
):
    original = Vocabulary.open(own_preparation.vocabulary)
    prepare(own_preparation)
    other = tmp_path / "other.model"
    # An unknown field, which a reader of the format skips.
    other.write_bytes(original.path.read_bytes() + b"\xc2\x3e\x01x")
    pile = Pile(path=own_preparation.output, vocabulary=str(other))
    expected = (
        rf"{original.fingerprint[:12]}, and .*other\.model is "
        rf"{Vocabulary.open(other).fingerprint[:12]}"
    )
    with pytest.raises(ValueError, match=expected):
        pile.open(seq_len=own_preparation.seq_len)
