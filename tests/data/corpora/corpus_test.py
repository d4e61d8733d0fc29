import pathlib
import pickle

import pytest
from etils import epath

from salt_jax.data.corpora import corpus
from salt_jax.data.corpora.document import Fields
from salt_jax.data.corpora.jsonl import JsonLines


def test_the_files_of_a_split_come_in_the_order_of_their_names(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ["01.jsonl.zst", "00.jsonl", "10.jsonl.gz", "notes.txt"]:
        (tmp_path / "train" / name).touch()
    parts = corpus.split_parts(str(tmp_path), "train")
    names = [pathlib.Path(part.name).name for part in parts]
    assert names == ["00.jsonl", "01.jsonl.zst", "10.jsonl.gz"]


def test_parts_know_the_fields_wherever_they_are_sent(tmp_path):
    (tmp_path / "val.jsonl").touch()
    fields = Fields(text="body", default_domain="Here")
    (part,) = corpus.split_parts(str(tmp_path), "val", fields)
    assert pickle.loads(pickle.dumps(part)) == part
    assert part == JsonLines(epath.Path(tmp_path / "val.jsonl"), fields)


def test_a_missing_corpus_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No corpus at .*/nowhere"):
        corpus.split_parts(str(tmp_path / "nowhere"), "train")


def test_a_missing_split_is_refused_with_what_is_there(tmp_path):
    (tmp_path / "test.jsonl").touch()
    with pytest.raises(FileNotFoundError, match=r"no split 'val'.*\['test.jsonl'\]"):
        corpus.split_parts(str(tmp_path), "val")


@pytest.mark.parametrize("name", ["data_dir", "module"])
def test_what_is_of_no_use_to_a_folder_is_refused_by_name(name, tmp_path):
    (tmp_path / "test.jsonl").touch()
    with pytest.raises(ValueError, match=rf"{name}='x' .* the corpus"):
        corpus.split_parts(str(tmp_path), "test", **{name: "x"})


@pytest.mark.parametrize("other", [("tfds:a", "module"), ("seqio:a", "data_dir")])
def test_what_is_of_no_use_to_a_library_is_refused_by_name(other):
    name, argument = other
    with pytest.raises(ValueError, match=rf"{argument}='x' .* the corpus"):
        corpus.split_parts(name, "train", **{argument: "x"})


def test_the_fingerprint_tells_files_that_differ_and_where_they_are_split(tmp_path):
    def fingerprint(*contents):
        files = [epath.Path(tmp_path / str(index)) for index in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_text(content)
        return corpus.fingerprint([JsonLines(file).fingerprint() for file in files])

    contents = [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab")]
    assert len({fingerprint(*files) for files in contents}) == len(contents)


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "train.jsonl.zst"),
        ("train.jsonl.gz", "train.jsonl.zst"),
        ("train/00.jsonl", "train/00.jsonl.gz"),
        ("train.jsonl", "train/00.jsonl"),
        ("train.jsonl", "train.parquet"),
        ("train.parquet", "train/0.parquet"),
    ],
)
def test_a_text_that_is_there_twice_is_refused_by_both_names(names, tmp_path):
    (tmp_path / "train").mkdir()
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"'train' more than once") as refused:
        corpus.split_parts(str(tmp_path), "train")
    for name in names:
        assert name.removesuffix("0.parquet") in str(refused.value)
