import dataclasses
import errno
import json
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from salt_jax.data.scoring import score_shards
from salt_jax.data.scoring.scores import Scores, ScoresWriter
from salt_jax.files.records import write_record
from tests.made_scores import rows_of, write_scores

KS = (1, 10)
COUNT = 50
NUM_COLUMNS = 2 + 2 * len(KS) + 3


@pytest.fixture
def open_writer(train, tmp_path):
    def open_writer(**changes):
        arguments = {
            "scorer_fingerprint": "abc",
            "count": COUNT,
            "ks": KS,
            "shard_size": 20,
        }
        return ScoresWriter.open(tmp_path / "scores", train, **(arguments | changes))

    return open_writer


def columns_of(writer, shard):
    """Returns made-up scores, of which no two columns or ids have the same."""
    manifest = writer.manifest
    ids = manifest.shard_ids(shard)
    values = {
        name: np.arange(COUNT) * 0.5 + 100 * index
        for index, name in enumerate(manifest.columns)
    }
    values["loss_quantiles"] = values["loss_quantiles"][:, None] + np.arange(7)
    values["sketch"] = np.arange(COUNT, dtype=np.uint64) + np.uint64(2**64 - COUNT)
    return rows_of(manifest, ids, values)


def write_all(writer):
    for shard in writer.missing_shards():
        writer.write_shard(shard, columns_of(writer, shard))
    return writer.finish()


@pytest.fixture
def written(open_writer):
    writer = open_writer()
    write_all(writer)
    return writer


def change_a_shard(written, change):
    """Changes the rows of the shard in the middle, on disk."""
    path = written.path / written.manifest.shard_name(1)
    rows = change(np.load(path))
    path.write_bytes(score_shards.to_bytes(rows, written.manifest, 1))


def test_what_was_written_is_read_by_id(written, train):
    scores = Scores.open(written.path, train)
    dtype = written.manifest.dtype
    assert len(dtype.names) == NUM_COLUMNS
    for index, name in enumerate(dtype.names[:-3]):
        expected = (np.arange(COUNT) * 0.5 + 100 * index).astype(np.float32)
        np.testing.assert_array_equal(scores.column(name), expected)
        assert scores.column(name).dtype == np.float32
    quantiles = scores.column("loss_quantiles")
    assert (quantiles.shape, quantiles.dtype) == ((COUNT, 7), np.float16)
    assert (np.diff(quantiles.astype(np.float32), axis=1) == 1).all()
    sketch = scores.column("sketch")
    assert sketch.dtype == np.uint64 and sketch[-1] == 2**64 - 1
    domain = scores.column("domain")
    assert domain.dtype == np.uint16 and (np.diff(domain[::2].astype(int)) == 1).all()


def test_the_manifest_says_of_what_by_whom_and_what_is_in_it(written, train):
    manifest = json.loads((written.path / "manifest.json").read_text())
    assert manifest["dataset_fingerprint"] == train.fingerprint
    assert (manifest["split"], manifest["scorer_fingerprint"]) == ("train", "abc")
    assert (manifest["count"], manifest["format_version"]) == (COUNT, 3)
    assert "top 10" in manifest["columns"]["median_k10_zeros"]
    assert manifest["domains"] == list(train.manifest.domains)
    assert manifest["ks"] == list(KS)


def test_the_share_of_zeros_of_each_median_is_kept(train, tmp_path):
    values = np.arange(40.0)
    columns = {"median_k1_zeros": values % 4, "median_k1_dropped": values}
    columns["mean_loss"] = values
    scores = write_scores(tmp_path, train, columns, ks=(1, 10), shard_size=7)
    expected = {"median_k1_zeros": 0.25, "median_k1_dropped": 0.025}
    expected |= {"median_k10_zeros": 1.0, "median_k10_dropped": 1.0}
    assert Scores.open(tmp_path, train).manifest.zero_shares == expected
    assert scores.zero_shares() == expected


READ_WITHOUT_US = """
import json, pathlib, sys
import numpy as np

folder = pathlib.Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
rows = np.concatenate([np.load(file) for file in sorted(folder.glob("*.npy"))])
assert len(rows) == manifest["count"]
assert list(rows.dtype.names) == list(manifest["columns"])
assert rows.dtype.itemsize <= 64
names = [manifest["domains"][i] for i in rows["domain"]]
assert "salt_jax" not in sys.modules
print(float(rows["median_k10_zeros"].sum()), len(names))
"""


def test_numpy_alone_can_read_them(train, tmp_path):
    values = np.random.default_rng(0).exponential(size=COUNT).astype(np.float32)
    columns = {"median_k10_zeros": values, "domain": np.arange(COUNT) % 3}
    write_scores(tmp_path, train, columns, ks=(1, 10, 50, 100), shard_size=20)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_US, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    total, count = done.stdout.split()
    assert (float(total), int(count)) == (float(values.sum()), COUNT)


def test_a_killed_run_goes_on_with_the_shards_it_lacks(open_writer):
    writer = open_writer()
    assert writer.missing_shards() == [0, 1, 2]
    writer.write_shard(1, columns_of(writer, 1))
    # The next one dies half way through its file.
    whole = (writer.path / writer.manifest.shard_name(1)).read_bytes()
    name = f"{writer.manifest.shard_name(2)}.0123.partial"
    (writer.path / name).write_bytes(whole[:100])
    again = open_writer()
    assert again.missing_shards() == [0, 2]
    assert len(write_all(again).column("mean_loss")) == COUNT
    assert not list(writer.path.glob("*.partial"))


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


def test_finishing_twice_writes_the_same_bytes(written, open_writer):
    before = (written.path / "manifest.json").read_bytes()
    open_writer().finish()
    assert (written.path / "manifest.json").read_bytes() == before


def test_scores_of_another_dataset_are_refused_with_both(written, prepared):
    val = prepared["val"]
    own = written.manifest.dataset_fingerprint[:12]
    with pytest.raises(ValueError, match=f"{own}, and .*val is {val.fingerprint[:12]}"):
        Scores.open(written.path, val)


def test_scores_of_more_sequences_than_there_are_are_refused(written, train):
    path = written.path / "manifest.json"
    more = len(train) + 1
    record = json.loads(path.read_text()) | {"count": more}
    write_record(path, record)
    with pytest.raises(ValueError, match=f"of {more} sequences, .* has {len(train)}:"):
        Scores.open(written.path, train)


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
        ({"ks": (10,)}, r"ks=\(1, 10\), not \(10,\)"),
    ],
)
def test_other_scores_at_the_same_place_are_refused_by_name(
    change, named, written, open_writer
):
    with pytest.raises(ValueError, match=named):
        open_writer(**change)


def test_scores_that_others_began_in_the_meantime_are_not_finished(
    open_writer, written
):
    other = open_writer()
    path = written.path / "manifest.json"
    record = json.loads(path.read_text()) | {"scorer_fingerprint": "xyz"}
    write_record(path, record)
    with pytest.raises(ValueError, match="scorer_fingerprint='xyz', not 'abc'"):
        other.finish()


@pytest.mark.parametrize("change", [{"count": 0}, {"count": 10**6}, {"ks": ()}])
def test_scores_that_cannot_be_are_refused(change, open_writer):
    with pytest.raises(ValueError, match="give a count from 1 to"):
        open_writer(**change)


@pytest.mark.parametrize("name", ["mean_loss", "loss_quantiles"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_not_written(bad, name, open_writer):
    writer = open_writer()
    columns = columns_of(writer, 0)
    columns[name][3] = bad
    with pytest.raises(
        ValueError, match=f"Shard 0 of '{name}' needs .* finite numbers"
    ):
        writer.write_shard(0, columns)
    assert writer.missing_shards() == [0, 1, 2]


def test_columns_that_are_not_the_manifests_are_refused(open_writer):
    writer = open_writer()
    with pytest.raises(ValueError, match=r"columns \['mean_loss'\]"):
        writer.write_shard(0, {"mean_loss": np.zeros(20)})


def test_fewer_scores_than_the_shard_has_sequences_are_not_written(open_writer):
    writer = open_writer()
    columns = {name: x[:-1] for name, x in columns_of(writer, 0).items()}
    with pytest.raises(ValueError, match=r"needs .* in shape \(20"):
        writer.write_shard(0, columns)


@pytest.mark.parametrize("name", ["entropy", "loss_quantiles"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_refused_by_shard_and_sequence(
    bad, name, written, train
):
    def spoil(rows):
        rows[name][[4, 9]] = bad
        return rows

    change_a_shard(written, spoil)
    message = rf"scores-00001-of-00003\.npy holds .*{bad}.* as '{name}' of sequence 24:"
    with pytest.raises(ValueError, match=message):
        # Whatever column is asked for.
        Scores.open(written.path, train).column("mean_loss")
    with pytest.raises(ValueError, match=message):
        written.finish()


def test_a_shard_shorter_than_it_should_be_is_refused(written, train):
    change_a_shard(written, lambda rows: rows[:-1])
    message = r"scores-00001-of-00003\.npy has \(19,\) scores, .* have \(20,\)"
    with pytest.raises(ValueError, match=message):
        Scores.open(written.path, train).column("mean_loss")


@pytest.mark.parametrize("keep", [0, 70, 300])
def test_a_damaged_shard_is_refused_by_name(keep, written, train):
    path = written.path / written.manifest.shard_name(1)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"scores-00001-of-00003\.npy is damaged"):
        Scores.open(written.path, train).column("mean_loss")


def test_every_flipped_bit_of_a_shard_is_refused_by_name(written, train):
    path = written.path / written.manifest.shard_name(1)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 37):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"scores-00001-of-00003\.npy is damaged"):
            Scores.open(written.path, train).column("mean_loss")


def test_a_shard_in_the_place_of_another_is_refused_by_name(written, train):
    first, second = (written.path / written.manifest.shard_name(i) for i in (0, 1))
    second.write_bytes(first.read_bytes())
    with pytest.raises(ValueError, match=r"00001-of-00003\.npy .* not this shard"):
        Scores.open(written.path, train).column("mean_loss")


def test_a_shard_of_another_scorer_is_refused_by_name(written, train, tmp_path):
    columns = {"mean_loss": np.arange(float(COUNT))}
    other = write_scores(tmp_path / "other", train, columns, ks=KS, shard_size=20)
    name = written.manifest.shard_name(2)
    manifest = dataclasses.replace(other.manifest, scorer_fingerprint="xyz")
    rows = score_shards.read(other.path, other.manifest, 2)
    (written.path / name).write_bytes(score_shards.to_bytes(rows, manifest, 2))
    with pytest.raises(ValueError, match=f"{name} .* not this shard of these scores"):
        Scores.open(written.path, train).column("mean_loss")


def test_a_disk_that_fails_is_not_called_damage(written, train, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    name = written.manifest.shard_name(0)
    scores = Scores.open(written.path, train)
    monkeypatch.setattr(type(written.path), "open", fail)
    with pytest.raises(OSError, match=f"Input/output error: .*{name}"):
        scores.column("mean_loss")


def test_a_lost_shard_can_be_written_again(written, open_writer, train):
    (written.path / written.manifest.shard_name(1)).unlink()
    with pytest.raises(ValueError, match=r"00001-of-00003\.npy is missing"):
        Scores.open(written.path, train).column("mean_loss")
    again = open_writer()
    assert again.missing_shards() == [1]
    assert len(write_all(again).column("mean_loss")) == COUNT


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 2}'])
def test_a_damaged_manifest_is_refused_by_name(text, written, train):
    (written.path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json .*score again"):
        Scores.open(written.path, train)


def test_the_first_format_is_refused_with_what_to_do(written, train):
    path = written.path / "manifest.json"
    write_record(path, {"format_version": 1})
    with pytest.raises(ValueError, match="of format 1, .* format 3: delete .* and"):
        Scores.open(written.path, train)


def test_reading_a_column_holds_the_column_and_little_more(tmp_path):
    count, shard_size = 400_000, 10_000
    scores = write_scores(
        tmp_path,
        _Counted(count),
        {"median_k10_zeros": np.ones(count, np.float32)},
        ks=(1, 10, 50, 100),
        shard_size=shard_size,
    )
    scores.column("mean_loss")
    tracemalloc.start()
    column = scores.column("median_k10_zeros")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One shard is being read while the one before is dropped.
    assert peak < column.nbytes + 3 * shard_size * scores.manifest.dtype.itemsize
    assert column.sum() == count


class _Counted:
    """Stands for a dataset of so many sequences."""

    def __init__(self, count):
        self._count = count
        self.manifest = self
        self.fingerprint, self.split, self.domains = "f", "train", ("a",)

    def __len__(self):
        return self._count
