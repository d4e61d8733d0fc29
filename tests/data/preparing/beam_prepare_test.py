import dataclasses
import json
import pathlib
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from salt_jax import main
from salt_jax.data.preparing import beam_split
from salt_jax.data.preparing.beam_prepare import prepare_with_beam
from salt_jax.data.preparing.prepare import Preparation, prepare
from tests.data.conftest import DOMAINS, VOCABULARY, make_lines, write_zst

# What Beam itself does, which is not for us to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TWO_PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")


def files_of(folder):
    folder = pathlib.Path(folder)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def both(preparation, tmp_path, flags=()):
    """Prepares with and without Beam; returns what both made and said."""
    outputs = [tmp_path / "local", tmp_path / "beam"]
    lines = [[], []]
    local, other = (dataclasses.replace(preparation, output=str(x)) for x in outputs)
    prepare(local, lines[0].append)
    prepare_with_beam(other, flags, lines[1].append)
    return [files_of(output) for output in outputs], lines


def refusal(function, preparation):
    with pytest.raises((ValueError, OSError)) as caught:
        function(preparation)
    return type(caught.value), str(caught.value)


def spoil(preparation, *lines):
    """Puts lines after the last of the train split."""
    path = pathlib.Path(preparation.corpus) / "train" / "01.jsonl.zst"
    write_zst(path, [*make_lines(20, seed=1), *lines])


@pytest.mark.parametrize("bits", [0, 3, 14])
def test_the_files_are_those_of_prepare_however_many_buckets_there_are(
    bits, preparation, prepared, tmp_path
):
    other = dataclasses.replace(preparation, output=str(tmp_path))
    found = prepare_with_beam(other, bucket_bits=bits)
    assert files_of(tmp_path) == files_of(preparation.output)
    assert {split: dataset.manifest for split, dataset in found.items()} == {
        split: dataset.manifest for split, dataset in prepared.items()
    }


@pytest.mark.slow
def test_the_embedded_corpus_is_the_same_from_two_beam_processes(tmp_path):
    preparation = Preparation(
        corpus="embedded:minipile",
        vocabulary=VOCABULARY,
        output="",
        seq_len=128,
        splits=("val", "test"),
        sequences_per_shard=300,
    )
    (local, beam), _ = both(preparation, tmp_path, TWO_PROCESSES)
    assert beam == local
    assert len(local) > 10


def test_bad_lines_and_domains_left_out_are_counted_the_same(own_preparation, tmp_path):
    spoil(own_preparation, "no JSON", *make_lines(300, seed=4), '{"text": 1}')
    preparation = dataclasses.replace(
        own_preparation,
        splits=("train",),
        domains=(DOMAINS[2], DOMAINS[0]),
        max_bad_share=0.01,
    )
    (local, beam), lines = both(preparation, tmp_path)
    assert beam == local
    manifest = json.loads(local["train/manifest.json"])
    assert (manifest["num_bad_lines"], len(manifest["domains"])) == (2, 2)
    (report,) = [line for line in lines[0] if "are no documents" in line]
    assert report in lines[1]


def test_a_corpus_in_parquet_is_prepared_the_same(own_preparation, tmp_path):
    for index in range(3):
        records = [json.loads(line) for line in make_lines(30, seed=index)]
        table = pa.Table.from_pylist(records)
        path = tmp_path / "columns" / f"train-{index:05}-of-00003.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table, path, row_group_size=8)
    preparation = dataclasses.replace(
        own_preparation, corpus=str(tmp_path / "columns"), splits=("train",)
    )
    (local, beam), _ = both(preparation, tmp_path)
    assert beam == local


def damage(preparation):
    path = pathlib.Path(preparation.corpus) / "train" / "01.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-3])
    return preparation


def empty(preparation):
    for path in (pathlib.Path(preparation.corpus) / "train").iterdir():
        write_zst(path, [])
    return preparation


def spoiled(preparation):
    spoil(preparation, "no JSON")
    return preparation


MISTAKES = {
    "is truncated": damage,
    "No lines in": empty,
    "1 of 61 lines are no documents; the first is": spoiled,
    "no document of the domain 'Web'": lambda preparation: dataclasses.replace(
        preparation, domains=("Web",)
    ),
    "No corpus at": lambda preparation: dataclasses.replace(
        preparation, corpus="/nowhere"
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_what_prepare_refuses_is_refused_in_the_same_words(
    message, own_preparation, tmp_path
):
    preparation = MISTAKES[message](own_preparation)
    preparation = dataclasses.replace(preparation, splits=("train",))
    other = dataclasses.replace(preparation, output=str(tmp_path / "beam"))
    refused = refusal(prepare, preparation)
    assert refusal(prepare_with_beam, other) == refused
    assert message in refused[1]
    assert not (tmp_path / "beam" / "train").exists()


def test_a_worker_that_cannot_write_says_so(own_preparation, monkeypatch):
    def full(*arguments, **options):
        raise OSError("Cannot write a file: no room.\nMake some.")

    monkeypatch.setattr(beam_split, "write_shard", full)
    with pytest.raises(Exception, match=r"Cannot write a file: no room.\nMake some."):
        prepare_with_beam(own_preparation)


def test_a_second_run_says_complete_and_changes_nothing(preparation, prepared):
    before, lines = files_of(preparation.output), []
    prepare_with_beam(preparation, progress=lines.append)
    assert files_of(preparation.output) == before
    assert [line for line in lines if line.endswith("is complete.")] == lines[1:]
    assert len(lines) == 4


def test_a_split_prepared_otherwise_is_refused(preparation, prepared):
    other = dataclasses.replace(preparation, seed=1)
    with pytest.raises(ValueError, match=r"was prepared with seed=0, not 1"):
        prepare_with_beam(other)


def test_what_a_killed_run_left_is_made_again(own_preparation, preparation, prepared):
    left = pathlib.Path(own_preparation.output) / ".train.beam" / "split"
    left.mkdir(parents=True)
    (left / "sequences-00000-of-00001.array_record").touch()
    prepare_with_beam(dataclasses.replace(own_preparation, corpus=preparation.corpus))
    assert files_of(own_preparation.output) == files_of(preparation.output)


def test_an_unknown_flag_is_refused(preparation):
    with pytest.raises(ValueError, match=r"Beam has no options \['num_wrokers'\]"):
        prepare_with_beam(preparation, ["--num_wrokers=2"])


@pytest.fixture
def command(own_preparation, tmp_path):
    """Arguments of the command that prepares the val split."""
    file = tmp_path / "prepare.gin"
    file.write_text(
        f"""
from __gin__ import dynamic_registration
from salt_jax.data.preparing import prepare

prepare.Preparation:
  corpus = {own_preparation.corpus!r}
  vocabulary = {VOCABULARY!r}
  output = {own_preparation.output!r}
  seq_len = 16
  splits = ('val',)
"""
    )
    return ["prepare", f"--gin_file={file}"]


def test_the_command_takes_the_flags_of_beam(command, own_preparation):
    assert (
        main.main([*command, "--beam=--runner=DirectRunner --direct_num_workers=1"])
        == 0
    )
    assert (pathlib.Path(own_preparation.output) / "val" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--beam=--runner=NoSuchRunner"], "NoSuchRunner"),
        (["--beam=", "--verify"], "leave out --beam"),
    ],
)
def test_the_command_refuses_what_cannot_be_in_one_line(
    flags, message, command, capsys
):
    assert main.main([*command, *flags]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("salt_jax: ") and message in last


def test_without_apache_beam_the_command_says_what_to_install(
    command, capsys, monkeypatch
):
    monkeypatch.delattr("salt_jax.data.preparing.beam_prepare")
    for name in (
        "salt_jax.data.preparing.beam_prepare",
        "salt_jax.data.preparing.beam_split",
    ):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    assert main.main([*command, "--beam="]) == 2
    assert "pip install -e '.[beam]'" in capsys.readouterr().err.splitlines()[-1]
