import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
from array_record.python import array_record_module

from salt_jax.data.prepared import sequences
from salt_jax.data.prepared.manifest import NAME
from salt_jax.data.preparing.verify import verify, verify_split
from salt_jax.data.preparing.workers import WorkerPool
from salt_jax.files.reading import sha256_of_file
from salt_jax.files.records import write_record
from salt_jax.main import main
from tests.data.conftest import VOCABULARY


@pytest.fixture
def place(train, tmp_path):
    """A copy of a prepared split, to be spoilt."""
    return pathlib.Path(shutil.copytree(train.path, tmp_path / "train"))


def shard_paths(place):
    return sorted(place.glob("*.array_record"))


def change_manifest(place, change):
    record = json.loads((place / NAME).read_text())
    change(record)
    write_record(place / NAME, record)


def rewrite(path, change):
    """Writes a shard anew with its first record changed."""
    reader = array_record_module.ArrayRecordReader(str(path))
    records = reader.read_all()
    reader.close()
    path.unlink()
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in [change(records[0]), *records[1:]]:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize(
    "workers", [WorkerPool(1, 1), WorkerPool(1, 3), WorkerPool(2, 1)]
)
def test_what_prepare_wrote_is_whole(workers, train):
    assert verify_split(train.path, workers) == []


def test_all_splits_of_a_preparation_are_verified(preparation, prepared):
    lines = []
    assert verify(preparation, lines.append) == []
    assert [line.split()[-3:] for line in lines] == [
        [str(prepared[split].path), "is", "whole."] for split in preparation.splits
    ]


def test_a_missing_shard_is_named(place):
    path = shard_paths(place)[1]
    path.unlink()
    assert verify_split(place) == [f"{path} is missing."]


def test_a_shard_cut_short_is_named(place):
    path = shard_paths(place)[1]
    contents = path.read_bytes()
    path.write_bytes(contents[:-100])
    found = verify_split(place)
    size = len(contents)
    assert found[0] == f"{path} has {size - 100} bytes, and should have {size}."
    assert all(line.startswith(str(path)) for line in found)


@pytest.mark.parametrize("position", [0.1, 0.5, 0.99])
def test_a_flipped_bit_is_found_wherever_it_is(position, place):
    path = shard_paths(place)[0]
    contents = bytearray(path.read_bytes())
    contents[int(position * len(contents))] ^= 1
    path.write_bytes(contents)
    found = verify_split(place)
    assert f"{path} is not the file that was written" in found[0]
    assert all(line.startswith(str(path)) for line in found)


def test_every_damaged_shard_is_named_in_order(place):
    first, _, third, *_ = shard_paths(place)
    third.unlink()
    first.unlink()
    assert verify_split(place) == [f"{first} is missing.", f"{third} is missing."]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record[:-2], "does not match its header"),
        (lambda record: b"", "does not match its header"),
        (lambda record: record[:-2] + b"\xff\xff", "token 65535, outside the voc"),
        (
            lambda record: record[:4] + b"\x0f" + record[5:-2],
            "sequence 0 has 15 tokens, not 16",
        ),
        (
            # The domain of the first document: after two counts and the starts.
            lambda record: (
                record[: 8 + 4 * record[0]] + b"\x09\0" + record[10 + 4 * record[0] :]
            ),
            "domain 9, which the manifest lacks",
        ),
        (
            lambda record: record[:8] + b"\x01" + record[9:],
            "documents that do not follow one another",
        ),
        (
            lambda record: sequences.to_record(
                np.array([0, 5, 5]), np.zeros(3), np.full(16, 9, np.uint16)
            ),
            "documents that do not follow one another",
        ),
    ],
)
def test_a_sequence_that_cannot_be_is_named(change, message, place):
    path = shard_paths(place)[0]
    rewrite(path, change)

    def make_known(record):
        # As if this had been written: only the records can tell.
        record["shards"][0]["sha256"] = sha256_of_file(path)
        record["shards"][0]["num_bytes"] = path.stat().st_size

    change_manifest(place, make_known)
    (found,) = verify_split(place)
    assert found.startswith(str(path))
    assert message in found


@pytest.mark.parametrize("field", ["tokens", "sequences"])
def test_a_wrong_count_of_a_domain_is_found(field, place):
    def change(record):
        record["domain_counts"][1][field] += 1

    change_manifest(place, change)
    (found,) = verify_split(place)
    assert f"{field} of 'Jargon File', and its shards hold" in found


def test_a_wrong_count_of_sequences_is_found(place):
    def change(record):
        record["count"] += 1

    change_manifest(place, change)
    (found,) = verify_split(place)
    assert "sequences, and its shards" in found


def test_what_was_prepared_otherwise_is_found(preparation, prepared):
    other = dataclasses.replace(preparation, seq_len=32, splits=("val",), corpus="gone")
    (found,) = verify(other)
    assert found.endswith("val was prepared with seq_len=16, not 32.")


def test_a_shard_that_the_manifest_does_not_list_is_found(place):
    (place / "sequences-99999-of-99999.array_record").write_bytes(b"")
    (found,) = verify_split(place)
    assert "sequences-99999-of-99999.array_record is not in the manifest" in found


def test_a_split_that_is_not_prepared_is_refused(own_preparation):
    with pytest.raises(FileNotFoundError, match="Run prepare first"):
        verify(own_preparation)


def test_a_shard_listed_twice_is_refused(place, train):
    def change(record):
        record["shards"][1] = record["shards"][0]

    change_manifest(place, change)
    name = train.manifest.shards[0].name
    with pytest.raises(ValueError, match=f"has duplicated ids: it lists {name} more"):
        verify_split(place)


def test_a_shard_in_the_place_of_another_is_found(place):
    # Both are whole and as large; only what they hold is not where it should be.
    first, second, *_ = shard_paths(place)
    contents = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(contents)
    named = {line.split()[0] for line in verify_split(place)}
    assert named == {str(first), str(second)}


def test_the_command_writes_a_line_a_failure_and_fails(place, tmp_path, capsys):
    gin_file = tmp_path / "prepare.gin"
    gin_file.write_text(
        "from __gin__ import dynamic_registration\n"
        "from salt_jax.data.preparing import prepare\n"
        "prepare.Preparation:\n"
        f"  corpus = 'unused'\n  vocabulary = '{VOCABULARY}'\n  seq_len = 16\n"
        f"  output = '{place.parent}'\n  splits = ('train',)\n"
        "  sequences_per_shard = 30\n"
    )
    command = ["prepare", f"--gin_file={gin_file}", "--verify"]
    assert main(command) == 0
    path = shard_paths(place)[1]
    path.unlink()
    capsys.readouterr()
    assert main(command) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == [
        f"salt_jax: {path} is missing.",
        "salt_jax: 1 failures: fetch what is damaged again, or delete the folder of "
        "its split and prepare that again.",
    ]
