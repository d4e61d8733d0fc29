import json

import numpy as np
import pytest

from salt_jax.data.scores import Scores, ScoresWriter

KS = (1, 10)


@pytest.fixture
def open_writer(train, tmp_path):
    def open_writer(**changes):
        arguments = {
            "scorer_fingerprint": "abc",
            "count": 50,
            "ks": KS,
            "shard_size": 20,
        }
        return ScoresWriter.open(tmp_path / "scores", train, **(arguments | changes))

    return open_writer


def columns_of(writer, shard):
    """Returns made-up scores, of which no two columns or ids have the same."""
    ids = writer.manifest.shard_ids(shard)
    names = enumerate(writer.manifest.columns)
    return {name: (ids * 0.5 + 100 * index) for index, name in names}


@pytest.fixture
def written(open_writer):
    writer = open_writer()
    for shard in writer.missing_shards():
        writer.write_shard(shard, columns_of(writer, shard))
    writer.finish()
    return writer


def test_what_was_written_is_read_by_id(written, train):
    scores = Scores.open(written.path, train)
    for index, name in enumerate(written.manifest.columns):
        expected = (np.arange(50) * 0.5 + 100 * index).astype(np.float32)
        np.testing.assert_array_equal(scores.column(name), expected)
        assert scores.column(name).dtype == np.float32


def test_the_manifest_says_of_what_by_whom_and_what_is_in_it(written, train):
    manifest = json.loads((written.path / "manifest.json").read_text())
    assert manifest["dataset_fingerprint"] == train.fingerprint
    assert (manifest["split"], manifest["scorer_fingerprint"]) == ("train", "abc")
    assert (manifest["count"], manifest["format_version"]) == (50, 1)
    assert "top 10" in manifest["columns"]["median_k10_zeros"]
    # Only id 0 of the first column is 0.
    shares = manifest["zero_shares"]
    assert shares == {name: 0.02 * (name == "mean_loss") for name in shares}


def test_a_killed_run_goes_on_with_the_shards_it_lacks(open_writer):
    writer = open_writer()
    assert writer.missing_shards() == [0, 1, 2]
    writer.write_shard(1, columns_of(writer, 1))
    # The next one dies half way through its file.
    whole = (writer.path / writer.manifest.shard_name(1)).read_bytes()
    name = f"{writer.manifest.shard_name(2)}.partial"
    (writer.path / name).write_bytes(whole[:100])
    again = open_writer()
    assert again.missing_shards() == [0, 2]
    for shard in again.missing_shards():
        again.write_shard(shard, columns_of(again, shard))
    assert len(again.finish().column("mean_loss")) == 50


def test_a_complete_run_has_nothing_missing(written, open_writer):
    assert open_writer().missing_shards() == []


def test_the_last_shard_holds_what_is_left(open_writer):
    manifest = open_writer().manifest
    assert [len(manifest.shard_ids(shard)) for shard in range(3)] == [20, 20, 10]


def test_scores_that_are_not_complete_are_refused(open_writer, train):
    writer = open_writer()
    with pytest.raises(ValueError, match="not complete"):
        Scores.open(writer.path, train)
    with pytest.raises(ValueError, match="3 of 3 shards .* the first is 0"):
        writer.finish()


def test_scores_of_another_dataset_are_refused_with_both(written, prepared):
    val = prepared["val"]
    own = written.manifest.dataset_fingerprint[:12]
    with pytest.raises(ValueError, match=f"{own}, and .*val is {val.fingerprint[:12]}"):
        Scores.open(written.path, val)


def test_scores_that_are_not_there_are_refused(tmp_path, train):
    with pytest.raises(FileNotFoundError, match=r"No scores at .*Run score first"):
        Scores.open(tmp_path, train)


def test_an_unknown_column_is_refused_with_those_there_are(written, train):
    with pytest.raises(ValueError, match=r"no column 'median_k7'.*'median_k10_zeros'"):
        Scores.open(written.path, train).column("median_k7")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scorer_fingerprint": "xyz"}, "scorer_fingerprint='abc', not 'xyz'"),
        ({"count": 40}, "count=50, not 40"),
        ({"shard_size": 10}, "shard_size=20, not 10"),
        ({"ks": (10,)}, "columns="),
    ],
)
def test_other_scores_at_the_same_place_are_refused_by_name(
    change, named, written, open_writer
):
    with pytest.raises(ValueError, match=named):
        open_writer(**change)


@pytest.mark.parametrize("change", [{"count": 0}, {"count": 10**6}, {"ks": ()}])
def test_scores_that_cannot_be_are_refused(change, open_writer):
    with pytest.raises(ValueError, match="give a count from 1 to"):
        open_writer(**change)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_refused(bad, open_writer):
    writer = open_writer()
    columns = columns_of(writer, 0)
    columns["mean_loss"][3] = bad
    with pytest.raises(ValueError, match="Shard 0 of 'mean_loss' needs 20 finite"):
        writer.write_shard(0, columns)


def test_columns_that_are_not_the_manifests_are_refused(open_writer):
    writer = open_writer()
    with pytest.raises(ValueError, match=r"columns \['mean_loss'\]"):
        writer.write_shard(0, {"mean_loss": np.zeros(20)})


@pytest.mark.parametrize("keep", [0, 70, 300])
def test_a_damaged_shard_is_refused_by_name(keep, written, train):
    path = written.path / written.manifest.shard_name(1)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"scores-00001-of-00003\.npy is missing or"):
        Scores.open(written.path, train).column("mean_loss")


def test_a_lost_shard_can_be_written_again(written, open_writer, train):
    (written.path / written.manifest.shard_name(1)).unlink()
    with pytest.raises(ValueError, match="missing or damaged"):
        Scores.open(written.path, train).column("mean_loss")
    again = open_writer()
    assert again.missing_shards() == [1]
    again.write_shard(1, columns_of(again, 1))
    assert len(again.finish().column("mean_loss")) == 50


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 1}'])
def test_a_damaged_manifest_is_refused_by_name(text, written, train):
    (written.path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        Scores.open(written.path, train)
