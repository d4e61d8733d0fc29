import gzip
import json

import pytest
import zstandard
from etils import epath

from salt_jax.data import corpus

LINES = [f'{{"text": "line {i}"}}'.encode() for i in range(500)]
CONTENTS = b"\n".join(LINES) + b"\n"


def numbered_lines(path, block_bytes=64):
    return [
        (number, line)
        for block in corpus.read_lines(epath.Path(path), block_bytes=block_bytes)
        for number, line in enumerate(block.lines, block.first_number)
    ]


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.jsonl", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.compress),
    ],
)
def test_every_line_is_read_with_its_number(name, compress, tmp_path):
    (tmp_path / name).write_bytes(compress(CONTENTS))
    assert numbered_lines(tmp_path / name) == list(enumerate(LINES, 1))


def test_a_last_line_needs_no_newline(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(CONTENTS.removesuffix(b"\n"))
    assert numbered_lines(tmp_path / "a.jsonl") == list(enumerate(LINES, 1))


def test_frames_of_zstd_are_read_one_after_another(tmp_path):
    half = len(CONTENTS) // 2
    frames = [zstandard.compress(CONTENTS[:half]), zstandard.compress(CONTENTS[half:])]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert numbered_lines(tmp_path / "a.jsonl.zst") == list(enumerate(LINES, 1))


@pytest.mark.parametrize(
    ("name", "compress"),
    [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)],
)
@pytest.mark.parametrize("num_lost", [1, 5, 200])
def test_a_file_cut_short_is_refused_by_name(name, compress, num_lost, tmp_path):
    (tmp_path / name).write_bytes(compress(CONTENTS)[:-num_lost])
    with pytest.raises(ValueError, match=rf"{name} is cut short"):
        numbered_lines(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_of_something_else_is_refused_by_name(name, tmp_path):
    (tmp_path / name).write_bytes(CONTENTS)
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        numbered_lines(tmp_path / name)


def test_a_document_knows_its_domain_and_its_bytes():
    line = json.dumps({"text": "\u00fc", "meta": {"pile_set_name": "Github"}})
    assert corpus.parse_document(line.encode()) == corpus.Document(
        "\u00fc", "Github", 2
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON"),
        (b'{"text": "a"', "not JSON"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'["text"]', "no 'text'"),
        (b'{"meta": {"pile_set_name": "Github"}}', "no 'text'"),
        (b'{"text": 3, "meta": {"pile_set_name": "Github"}}', "no 'text'"),
        (b'{"text": "a"}', "no 'pile_set_name'"),
        (b'{"text": "a", "meta": "Github"}', "no 'pile_set_name'"),
        (b'{"text": "\\ud800", "meta": {"pile_set_name": "Github"}}', "surrogate"),
    ],
)
def test_a_line_that_is_no_document_is_refused_with_the_reason(line, reason):
    with pytest.raises(ValueError, match=reason):
        corpus.parse_document(line)


def test_the_files_of_a_split_come_in_the_order_of_their_names(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ["01.jsonl.zst", "00.jsonl", "10.jsonl.gz", "notes.txt"]:
        (tmp_path / "train" / name).touch()
    names = [file.name for file in corpus.split_files(tmp_path, "train")]
    assert names == ["00.jsonl", "01.jsonl.zst", "10.jsonl.gz"]


def test_a_missing_corpus_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No corpus at .*/nowhere"):
        corpus.split_files(tmp_path / "nowhere", "train")


def test_a_missing_split_is_refused_with_what_is_there(tmp_path):
    (tmp_path / "test.jsonl").touch()
    with pytest.raises(FileNotFoundError, match=r"no split 'val'.*\['test.jsonl'\]"):
        corpus.split_files(tmp_path, "val")


def test_the_fingerprint_tells_files_that_differ_and_where_they_are_split(tmp_path):
    def fingerprint(*contents):
        files = [epath.Path(tmp_path / str(index)) for index in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_text(content)
        return corpus.fingerprint(files)

    contents = [("ab", "c"), ("a", "bc"), ("abc",), ("c", "ab")]
    assert len({fingerprint(*files) for files in contents}) == len(contents)
