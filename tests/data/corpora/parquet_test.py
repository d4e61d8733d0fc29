import collections
import dataclasses
import itertools
import json
import pathlib
import random
import subprocess
import sys
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from salt_jax.data.corpora import corpus
from salt_jax.data.corpora.corpus import Fields
from salt_jax.data.corpora.parquet_pages import page_sizes
from salt_jax.data.preparing.prepare import prepare

META = pa.struct([("id", pa.int64()), ("pile_set_name", pa.string())])
PLAIN = Fields(domain="source")


def write(path, columns, **options):
    """Writes a file of columns, each a name: (type, values)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: pa.array(values, kind) for name, (kind, values) in columns.items()}
    pq.write_table(pa.table(arrays), path, **options)


def texts(*values):
    return {
        "text": (pa.string(), values),
        "source": (pa.string(), ["KJV Bible"] * len(values)),
    }


def documents(parts):
    """Returns what each part has by number: a text and a domain, or what is wrong."""
    return [
        {
            number: found if isinstance(found, str) else (found.text, found.domain)
            for block in part.blocks()
            for number, found in block.documents()
        }
        for part in parts
    ]


def read(root, fields=PLAIN, split="train"):
    (found,) = documents(corpus.split_parts(str(root), split, fields))
    return found


def as_parquet(source, target):
    """Writes the files of a corpus as Parquet, in row groups of 7 rows."""
    for path in sorted(source.rglob("*.jsonl.zst")):
        with zstandard.open(path, "rt", encoding="utf-8") as file:
            records = [json.loads(line) for line in file]
        columns = {
            "meta": (META, [record["meta"] for record in records]),
            "text": (pa.string(), [record["text"] for record in records]),
        }
        name = str(path.relative_to(source)).replace(".jsonl.zst", ".parquet")
        write(target / name, columns, row_group_size=7)
    return target


def test_a_corpus_has_the_same_parts_as_lines_and_as_columns(preparation, tmp_path):
    source = pathlib.Path(preparation.corpus)
    columns = str(as_parquet(source, tmp_path))
    for split in preparation.splits:
        lines = documents(corpus.split_parts(preparation.corpus, split))
        assert documents(corpus.split_parts(columns, split)) == lines


def test_the_same_files_in_the_same_order_give_the_same_sequences(
    preparation, prepared, tmp_path
):
    source = pathlib.Path(preparation.corpus)
    columns = dataclasses.replace(
        preparation,
        corpus=str(as_parquet(source, tmp_path / "corpus")),
        output=str(tmp_path / "prepared"),
    )
    for split, dataset in prepare(columns).items():
        manifests = [dataset.manifest, prepared[split].manifest]
        assert manifests[0].settings != manifests[1].settings
        same = [dataclasses.replace(x, settings=None) for x in manifests]
        assert same[0] == same[1]


LAYOUTS = {
    "one file": ["train.parquet"],
    "numbered": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
    "numbered, in data/": [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ],
    "numbered, with hashes": [
        "data/train-00000-of-00002-3bca.parquet",
        "data/train-00001-of-00002-0f11.parquet",
    ],
    "a folder": ["train/0000.parquet", "train/0001.parquet", "train/10.parquet"],
}


@pytest.mark.parametrize("names", LAYOUTS.values(), ids=LAYOUTS)
def test_the_files_of_a_split_are_read_in_the_order_of_their_names(names, tmp_path):
    others = ["training.parquet", "val.parquet", "train.txt", "data/train-x.parquet"]
    for name in [*reversed(names), *others]:
        write(tmp_path / name, texts(name))
    parts = corpus.split_parts(str(tmp_path), "train", PLAIN)
    assert [part.name for part in parts] == [str(tmp_path / name) for name in names]
    found = [text for part in documents(parts) for text, _ in part.values()]
    assert found == names


def test_a_split_in_two_layouts_is_refused(tmp_path):
    for name in ("train.parquet", "data/train-00000-of-00001.parquet"):
        write(tmp_path / name, texts("a"))
    message = r"'train' .*as train.parquet and as data/train-\*.parquet"
    with pytest.raises(ValueError, match=message):
        corpus.split_parts(str(tmp_path), "train", PLAIN)


def test_a_split_in_lines_and_in_columns_is_refused(tmp_path):
    write(tmp_path / "train.parquet", texts("a"))
    (tmp_path / "train.jsonl").touch()
    message = r"'train' .*as train.jsonl and as train.parquet"
    with pytest.raises(ValueError, match=message):
        corpus.split_parts(str(tmp_path), "train", PLAIN)


INCOMPLETE = [
    ["00000-of-00003", "00002-of-00003"],
    ["00001-of-00002"],
    ["00000-of-00002", "00001-of-00002", "00002-of-00003"],
    ["00000-of-00002-0a", "00000-of-00002-0b", "00001-of-00002-0a"],
    ["00000-of-00002-0a", "00000-of-00002-0b"],
]


@pytest.mark.parametrize("numbers", INCOMPLETE)
def test_numbered_files_that_are_not_all_there_once_are_refused(numbers, tmp_path):
    for number in numbers:
        write(tmp_path / f"train-{number}.parquet", texts("a"))
    message = rf"has {len(numbers)} files such as train-{numbers[0]}.parquet, whose"
    with pytest.raises(ValueError, match=message):
        corpus.split_parts(str(tmp_path), "train", PLAIN)


def test_a_missing_split_is_refused_with_what_is_there(tmp_path):
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", texts("a"))
    message = r"no split 'val'.*'data/validation-00000-of-00001.parquet'"
    with pytest.raises(FileNotFoundError, match=message):
        corpus.split_parts(str(tmp_path), "val", PLAIN)


def test_rows_that_are_no_documents_are_told_by_number(tmp_path):
    write(
        tmp_path / "train.parquet",
        {
            "text": (pa.string(), ["", None, "nul\0", "d", "e"]),
            "meta": (
                META,
                [
                    {"pile_set_name": "A"},
                    {"pile_set_name": "A"},
                    {"pile_set_name": "B"},
                    {"pile_set_name": None},
                    None,
                ],
            ),
        },
    )
    assert read(tmp_path, Fields()) == {
        1: ("", "A"),
        2: "no 'text'",
        3: ("nul\0", "B"),
        4: "no 'pile_set_name' in 'meta'",
        5: "no 'pile_set_name' in 'meta'",
    }


def test_text_that_is_not_utf8_is_a_bad_row_alone(tmp_path):
    columns = texts("a", "b", "\u00fc", "d")
    bad = pa.array([b"a", b"\xff", "\u00fc".encode(), b"d"]).cast(pa.binary())
    columns = {
        "text": pa.Array.from_buffers(pa.string(), 4, bad.buffers()),
        "source": pa.array(columns["source"][1]),
    }
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    domain = "KJV Bible"
    assert read(tmp_path) == {
        1: ("a", domain),
        2: "not UTF-8",
        3: ("\u00fc", domain),
        4: ("d", domain),
    }


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()],
    ids=str,
)
def test_text_may_be_stored_as_it_likes(kind, tmp_path):
    columns = {name: (kind, values) for name, (_, values) in texts("a", "a").items()}
    write(tmp_path / "train.parquet", columns)
    assert read(tmp_path) == {1: ("a", "KJV Bible"), 2: ("a", "KJV Bible")}


def test_a_default_domain_stands_in_for_a_column_and_for_nulls(tmp_path):
    columns = texts("a", "b") | {"source": (pa.string(), ["A", None])}
    write(tmp_path / "train.parquet", columns)
    fields = dataclasses.replace(PLAIN, default_domain="Books")
    assert read(tmp_path, fields) == {1: ("a", "A"), 2: ("b", "Books")}
    fields = Fields(default_domain="Books")
    assert read(tmp_path, fields) == {1: ("a", "Books"), 2: ("b", "Books")}


REFUSED = {
    "no column 'body'; it has .'text', 'meta.id'.*fields.text": Fields(text="body"),
    "no column 'text.a'": Fields(text="text.a"),
    "no column 'source'.*fields.domain, or fields.default": Fields(domain="source"),
    "Column 'meta' of .* holds struct<.*>, not text": Fields(domain="meta"),
    "Column 'meta.id' of .* holds int64, not text": Fields(domain="meta.id"),
}


@pytest.mark.parametrize(("message", "fields"), REFUSED.items())
def test_columns_that_will_not_do_are_refused_before_any_is_read(
    message, fields, tmp_path
):
    columns = {
        "text": (pa.string(), ["a"]),
        "meta": (META, [{"pile_set_name": "A"}]),
    }
    write(tmp_path / "train.parquet", columns)
    with pytest.raises(ValueError, match=message):
        corpus.split_parts(str(tmp_path), "train", fields)


def test_a_file_without_rows_has_no_documents(tmp_path):
    write(tmp_path / "train.parquet", texts())
    assert read(tmp_path) == {}


def test_a_file_cut_short_is_refused_by_name(tmp_path):
    path = tmp_path / "train.parquet"
    write(path, texts(*"abc"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"train.parquet is damaged: .*Fetch or make"):
        corpus.split_parts(str(tmp_path), "train", PLAIN)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_a_file_damaged_inside_is_refused_by_name(compression, tmp_path):
    path = tmp_path / "train.parquet"
    draw = random.Random(0)
    values = ["".join(draw.choices("abcdefgh", k=50)) for _ in range(500)]
    write(path, texts(*values), compression=compression, write_page_checksum=True)
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 3] ^= 255
    path.write_bytes(contents)
    (part,) = corpus.split_parts(str(tmp_path), "train", PLAIN)
    with pytest.raises(ValueError, match=r"train.parquet is damaged: [^\n]*$"):
        documents([part])


def test_a_row_group_larger_than_memory_is_read_through_a_window(tmp_path):
    draw = random.Random(0)
    values = [draw.randbytes(10_000).hex() for _ in range(2_000)]  # 40 MB.
    path = tmp_path / "train.parquet"
    # Pages hold what is written at a time; a page is read whole.
    write(path, texts(*values), row_group_size=len(values), write_batch_size=16)
    assert pq.ParquetFile(path).num_row_groups == 1
    (part,) = corpus.split_parts(str(tmp_path), "train", PLAIN)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        held = [pa.total_allocated_bytes() for _ in itertools.islice(part.blocks(), 20)]
        _, in_python = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(held) - before + in_python < 10e6


def test_rows_are_numbered_through_all_blocks(tmp_path):
    values = [str(number) for number in range(1, 301)]
    write(tmp_path / "train.parquet", texts(*values), row_group_size=70)
    found = read(tmp_path)
    assert found == {int(value): (value, "KJV Bible") for value in values}


def test_the_fingerprint_tells_files_that_differ(tmp_path):
    def fingerprint(*values):
        write(tmp_path / "train.parquet", texts(*values))
        (part,) = corpus.split_parts(str(tmp_path), "train", PLAIN)
        return part.fingerprint()

    found = collections.Counter(map(fingerprint, "abcab"))
    assert sorted(found.values()) == [1, 2, 2]


def test_a_column_may_have_a_name_with_dots(tmp_path):
    flat = pa.table({"text": ["a"], "meta": pa.array([{"pile_set_name": "X"}])})
    pq.write_table(flat.flatten(), tmp_path / "train.parquet")
    assert read(tmp_path, Fields()) == {1: ("a", "X")}


READ_AND_MEASURE = """
import resource, sys
from salt_jax.data.corpora import corpus
from salt_jax.data.corpora.corpus import Fields
from salt_jax.data.corpora.parquet_pages import page_sizes

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

(part,) = corpus.split_parts(sys.argv[1], "train", Fields(domain="source"))
before = peak()
try:
    for block in part.blocks():
        last, found = list(block.documents())[-1]
        if last > 100:
            break
    print(peak() - before, f"{len(found.text):,} letters")
except ValueError as error:
    print(peak() - before, error)
"""


@pytest.mark.parametrize(
    ("num_letters", "said"), [(20_000_000, "20,000,000 le"), (70_000_000, "70,000,")]
)
def test_a_long_text_in_each_of_many_rows_takes_bounded_memory(
    num_letters, said, tmp_path
):
    # A dictionary of one text, so that a thousand bytes stand for terabytes.
    rows = pa.array([0] * 100_000, pa.int32())
    text = pa.DictionaryArray.from_arrays(rows, pa.array(["x" * num_letters]))
    table = pa.table({"text": text, "source": ["A"] * 100_000})
    pq.write_table(table, tmp_path / "train.parquet", compression="brotli")
    assert (tmp_path / "train.parquet").stat().st_size < 2_000
    done = subprocess.run(
        [sys.executable, "-c", READ_AND_MEASURE, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    megabytes, _, found = done.stdout.partition(" ")
    assert said in found and int(megabytes) < 400


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_the_sizes_of_pages_are_those_of_their_contents(compression, version, tmp_path):
    texts = ["abcdefgh" * 50] * 1_000 + [f"{i:0400}" for i in range(1_000)]
    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"text": texts, "other": list(range(2_000))}),
        path,
        compression=compression,
        data_page_version=version,
        row_group_size=700,
    )
    metadata = pq.read_metadata(path)
    chunks = [metadata.row_group(i).column(0) for i in range(metadata.num_row_groups)]
    with path.open("rb") as file:
        sizes = [*page_sizes(file, metadata, ["text"])]
    # That of a chunk includes the headers of its pages.
    total = sum(chunk.total_uncompressed_size for chunk in chunks)
    assert total - 900 * len(sizes) < sum(size for _, size in sizes) < total
    assert sum(is_dictionary for is_dictionary, _ in sizes) == len(chunks)
