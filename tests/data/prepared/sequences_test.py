import numpy as np
import pytest

from salt_jax.data.prepared import sequences


@pytest.fixture
def read():
    full = sequences.to_record(
        np.array([0, 3]), np.array([2, 0]), np.array([9, 8, 1, 7, 6, 5], "<u2")
    )
    partial = sequences.to_record(
        np.array([0, 1]), np.array([1, 2]), np.array([1, 4], "<u2")
    )
    return sequences.from_records(
        [full, partial], seq_len=6, dtype=np.dtype("<u2"), pad_id=11
    )


def test_tokens_are_padded_at_the_end(read):
    expected = [[9, 8, 1, 7, 6, 5], [1, 4, 11, 11, 11, 11]]
    np.testing.assert_array_equal(read.tokens, expected)


def test_segments_count_the_documents_of_a_row_from_1(read):
    expected = [[1, 1, 1, 2, 2, 2], [1, 2, 0, 0, 0, 0]]
    np.testing.assert_array_equal(read.segments, expected)


def test_positions_begin_again_with_each_document(read):
    expected = [[0, 1, 2, 0, 1, 2], [0, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(read.positions, expected)


def test_domains_are_those_of_the_documents(read):
    expected = [[2, 2, 2, 0, 0, 0], [1, 2, -1, -1, -1, -1]]
    np.testing.assert_array_equal(read.domains, expected)


def test_types_are_the_same_whatever_is_stored(read):
    types = [read.tokens, read.segments, read.positions, read.domains]
    assert [x.dtype.name for x in types] == ["int32", "int32", "int32", "int16"]


def test_no_sequences_are_no_rows():
    empty = sequences.from_records([], seq_len=6, dtype=np.dtype("<u2"), pad_id=0)
    assert empty.tokens.shape == empty.domains.shape == (0, 6)


@pytest.mark.parametrize(("size", "width"), [(4096, 2), (65_536, 2), (65_537, 4)])
def test_tokens_are_stored_in_as_few_bytes_as_the_vocabulary_needs(size, width):
    assert sequences.token_dtype(size).itemsize == width
