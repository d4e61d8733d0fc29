import gzip
import json
import tracemalloc

import pytest
import zstandard
from etils import epath

from salt_jax.data.corpora import jsonl
from salt_jax.data.corpora.document import Document, Fields, Limits

LINES = [f'{{"text": "line {i}"}}'.encode() for i in range(500)]
CONTENTS = b"\n".join(LINES) + b"\n"


def numbered_lines(path, block_bytes=64):
    return [
        (number, line)
        for first, lines in jsonl.read_lines(epath.Path(path), block_bytes=block_bytes)
        for number, line in enumerate(lines, first)
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


@pytest.mark.parametrize("block_bytes", [1, 2, 17, 64, 1 << 20])
@pytest.mark.parametrize(
    "contents", [b"", b"\n", b"a", b"\n\na\n\n", b"a\n" + b"b" * 70 + b"\nc"]
)
def test_lines_are_those_between_newlines_whatever_is_read_at_a_time(
    contents, block_bytes, tmp_path
):
    (tmp_path / "a.jsonl").write_bytes(contents)
    expected = contents.split(b"\n")
    expected = expected if expected[-1] else expected[:-1]
    assert numbered_lines(tmp_path / "a.jsonl", block_bytes) == list(
        enumerate(expected, 1)
    )


def test_a_last_line_needs_no_newline(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(CONTENTS.removesuffix(b"\n"))
    assert numbered_lines(tmp_path / "a.jsonl") == list(enumerate(LINES, 1))


def test_frames_of_zstd_are_read_one_after_another(tmp_path):
    half = len(CONTENTS) // 2
    frames = [zstandard.compress(CONTENTS[:half]), zstandard.compress(CONTENTS[half:])]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert numbered_lines(tmp_path / "a.jsonl.zst") == list(enumerate(LINES, 1))


def test_a_long_line_is_held_once_and_not_once_a_block(tmp_path):
    num_bytes = 8_000_000
    (tmp_path / "a.jsonl").write_bytes(b"x" * num_bytes)
    tracemalloc.start()
    # 8,000 blocks: putting each behind those before would copy 32 GB.
    (found,) = numbered_lines(tmp_path / "a.jsonl", block_bytes=1_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found[1]) == num_bytes
    assert peak < 3 * num_bytes


@pytest.mark.parametrize(
    ("name", "compress"),
    [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)],
)
@pytest.mark.parametrize("num_lost", [1, 5, 200])
def test_a_file_cut_short_is_refused_by_name(name, compress, num_lost, tmp_path):
    (tmp_path / name).write_bytes(compress(CONTENTS)[:-num_lost])
    with pytest.raises(ValueError, match=rf"{name} is truncated"):
        numbered_lines(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_of_something_else_is_refused_by_name(name, tmp_path):
    (tmp_path / name).write_bytes(CONTENTS)
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        numbered_lines(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", zstandard.ZstdCompressor(write_checksum=True).compress),
    ],
)
def test_a_file_with_a_flipped_byte_is_refused_by_name(name, compress, tmp_path):
    contents = bytearray(compress(CONTENTS))
    contents[len(contents) // 2] ^= 0x55
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ValueError, match=rf"{name} is (damaged|truncated)"):
        numbered_lines(tmp_path / name)


def test_a_document_knows_its_domain_and_its_bytes():
    line = json.dumps({"text": "\u00fc", "meta": {"pile_set_name": "Github"}})
    assert jsonl.parse_document(line.encode()) == Document("\u00fc", "Github", 2)


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "\u2028\r", "\u2581"])
def test_text_may_be_empty_or_hold_any_character(text):
    line = json.dumps({"text": text, "meta": {"pile_set_name": "Github"}})
    assert jsonl.parse_document(line.encode()).text == text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON"),
        (b'{"text": "a"', "not JSON"),
        (b'{"text": "a\0b", "meta": {"pile_set_name": "Github"}}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"1" * 5_000, "not JSON"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'["text"]', "no 'text'"),
        (b'"text"', "no 'text'"),
        (b"3", "no 'text'"),
        (b"null", "no 'text'"),
        (b'{"meta": {"pile_set_name": "Github"}}', "no 'text'"),
        (b'{"text": 3, "meta": {"pile_set_name": "Github"}}', "'text' is of type int"),
        (b'{"text": {"text": "a"}, "meta": {}}', "'text' is of type dict"),
        (b'{"text": "a"}', "no 'pile_set_name' in 'meta'"),
        (b'{"text": "a", "meta": "Github"}', "no 'pile_set_name' in 'meta'"),
        (
            b'{"text": "a", "meta": {"pile_set_name": 1}}',
            "name' is of type int, not str",
        ),
        (b'{"text": "\\ud800", "meta": {"pile_set_name": "Github"}}', "surrogate"),
        (b'{"text": "a", "meta": {"pile_set_name": "\\ud800"}}', "surrogate"),
    ],
)
def test_a_line_that_is_no_document_is_refused_with_the_reason(line, reason):
    with pytest.raises(ValueError, match=reason):
        jsonl.parse_document(line)


def test_a_file_gives_a_document_or_what_is_wrong_for_every_line(tmp_path):
    fields = Fields(text="body", domain="from", default_domain="Elsewhere")
    lines = ['{"body": "a", "from": "Here"}', "???", '{"body": "b"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    part = jsonl.JsonLines(epath.Path(tmp_path / "a.jsonl"), fields)
    assert [x for block in part.blocks() for x in block.documents()] == [
        (1, Document("a", "Here", 1)),
        (2, "not JSON"),
        (3, Document("b", "Elsewhere", 1)),
    ]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_nothing_at_all_is_no_compressed_file(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{name} is truncated"):
        numbered_lines(tmp_path / name)


@pytest.mark.parametrize("block_bytes", [1, 64])
def test_a_byte_order_mark_is_no_part_of_the_first_line(block_bytes, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + CONTENTS)
    assert numbered_lines(tmp_path / "a.jsonl", block_bytes) == list(
        enumerate(LINES, 1)
    )


def test_blank_lines_are_no_documents_and_are_counted_as_lines(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\n{"text": "a"}\n \r\n\n{"text": "b"}\n\n')
    part = jsonl.JsonLines(epath.Path(tmp_path / "a.jsonl"), Fields(default_domain="A"))
    found = [x for block in part.blocks() for x in block.documents()]
    assert found == [(2, Document("a", "A", 1)), (5, Document("b", "A", 1))]


def bomb(letter):
    """Returns 98 KB that decompress to 3.2 GB of one letter."""
    compressor = zstandard.ZstdCompressor().compressobj()
    parts = [compressor.compress(letter * 1_000_000) for _ in range(3_200)]
    return b"".join(parts) + compressor.flush()


@pytest.mark.parametrize("letter", [b"x", b"\n"])
def test_a_file_that_would_take_all_memory_is_refused_before_it_does(letter, tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(bomb(letter))
    assert (tmp_path / "a.jsonl.zst").stat().st_size < 330_000
    tracemalloc.start()
    limit = 16_000_000
    with pytest.raises(ValueError, match=r"a.jsonl.zst:\d+ .*16,000,000"):
        for _ in jsonl.read_lines(
            epath.Path(tmp_path / "a.jsonl.zst"),
            block_bytes=1 << 17,
            limits=Limits(max_document_bytes=limit),
        ):
            pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # What one kilobyte can decompress to comes on top.
    assert peak < 3 * limit + (1 << 25)


@pytest.mark.parametrize("block_bytes", [1, 30, 1000])
def test_a_line_as_long_as_the_limit_is_read_and_a_longer_is_not(block_bytes, tmp_path):
    path = epath.Path(tmp_path / "a.jsonl.gz")
    path.write_bytes(gzip.compress(b"a\n" + b"b" * 100 + b"\n" + b"c" * 100))

    def read(limit):
        limits = Limits(max_document_bytes=limit)
        return list(jsonl.read_lines(path, block_bytes=block_bytes, limits=limits))

    read(101)
    with pytest.raises(ValueError, match=r"a.jsonl.gz:\d .*99"):
        read(99)


@pytest.mark.parametrize("window_log", [27, 28, 31])
def test_a_long_window_is_read_or_named_and_is_no_damage(window_log, tmp_path):
    how = zstandard.ZstdCompressionParameters(
        window_log=window_log, enable_ldm=True, write_content_size=False
    )
    compressor = zstandard.ZstdCompressor(compression_params=how).compressobj()
    path = epath.Path(tmp_path / "a.jsonl.zst")
    path.write_bytes(compressor.compress(CONTENTS) + compressor.flush())

    def read(**limits):
        lines = jsonl.read_lines(path, block_bytes=64, limits=Limits(**limits))
        return [line for _, block in lines for line in block]

    if window_log > 27:
        with pytest.raises(ValueError, match="a.jsonl.zst needs .*max_window_bytes"):
            read()
    assert read(max_window_bytes=1 << window_log) == LINES


@pytest.mark.parametrize("value", [0, 1.5, "1"])
def test_a_limit_is_a_positive_integer(value):
    with pytest.raises(ValueError, match=f"limits.max_window_bytes .*{value!r}"):
        Limits(max_window_bytes=value)
