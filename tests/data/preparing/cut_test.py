import itertools

import numpy as np
import pytest

from salt_jax.data.prepared import sequences
from salt_jax.data.preparing.cut import TokenRange, cut

DTYPE = np.dtype("<u2")


def documents(lengths, begin=0):
    lengths = np.array(lengths)
    return TokenRange(
        begin=begin,
        tokens=np.arange(begin, begin + lengths.sum()).astype(DTYPE),
        starts=begin + np.cumsum(lengths) - lengths,
        domains=np.arange(len(lengths)) % 3,
    )


WHOLE = documents([5, 1, 1, 30, 2, 8, 1, 12])


def records(token_ranges, begin=0, end=WHOLE.end, seq_len=7):
    return [
        record
        for piece in cut(token_ranges, begin=begin, end=end, seq_len=seq_len)
        for record in piece.records(seq_len)
    ]


def test_a_record_says_where_its_documents_begin_and_of_which_domain_they_are():
    found = [sequences.from_record(record, DTYPE) for record in records([WHOLE])]
    starts, domains, tokens = (
        [x.tolist() for x in field] for field in zip(*found, strict=True)
    )
    assert starts[:2] == [[0, 5, 6], [0]]
    assert domains[:2] == [[0, 1, 2], [0]]
    assert starts[-3:] == [[0, 5, 6], [0], [0]]
    assert domains[-3:] == [[2, 0, 1], [1], [1]]
    assert np.concatenate(tokens).tolist() == list(range(WHOLE.end))
    assert {len(row) for row in tokens[:-1]} == {7}


@pytest.mark.parametrize(
    "places", [[5], [1, 2, 3], [37, 39], [6, 7, 37, 48], [41, 50], [20, 41]]
)
@pytest.mark.parametrize("seq_len", [2, 7, 59, 60, 100])
@pytest.mark.parametrize("begin", [0, 3])
def test_records_do_not_depend_on_the_pieces_in_which_tokens_come(
    places, seq_len, begin
):
    bounds = [0, *places, WHOLE.end]
    pieces = [WHOLE.part(*ends) for ends in itertools.pairwise(bounds)]
    found = records(pieces, begin, seq_len=seq_len)
    assert found == records([WHOLE], begin, seq_len=seq_len)


@pytest.mark.parametrize("first", [1, 3, 5])
def test_two_ranges_have_the_records_of_both_together(first):
    middle = 7 * first
    halves = [records([WHOLE], 0, middle), records([WHOLE], middle, WHOLE.end)]
    assert halves[0] + halves[1] == records([WHOLE])


def test_a_sequence_counts_once_for_each_domain_that_it_holds():
    for seq_len in (2, 7, 100):
        found = sum(
            piece.sequences_by_domain(seq_len, 4)
            for piece in cut([WHOLE], begin=0, end=WHOLE.end, seq_len=seq_len)
        )
        held = [
            np.unique(sequences.from_record(record, DTYPE)[1])
            for record in records([WHOLE], seq_len=seq_len)
        ]
        expected = np.bincount(np.concatenate(held), minlength=4)
        np.testing.assert_array_equal(found, expected)


def test_tokens_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="Tokens 0 to 61 .* up to 60 exist"):
        records([WHOLE], end=61)
    with pytest.raises(ValueError, match="Tokens 0 to 60 .* up to 0 exist"):
        records([])
