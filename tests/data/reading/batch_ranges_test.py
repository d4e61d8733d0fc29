import pytest

from salt_jax.data.reading import batch_ranges

RANGES = ((2, 4), (4, 5), (8, 10))
INSIDE = {2, 3, 4, 8, 9}


def test_batches_in_ranges_are_passed_over():
    read = {batch_ranges.first_outside(RANGES, index) for index in range(12)}
    assert read == set(range(13)) - INSIDE - {12}


@pytest.mark.parametrize("begin", range(11))
def test_batches_in_ranges_are_counted(begin):
    for end in range(begin, 12):
        expected = len(INSIDE & set(range(begin, end)))
        assert batch_ranges.count(RANGES, begin, end) == expected


def test_ranges_before_a_batch_are_equal_if_they_hold_the_same_batches():
    assert batch_ranges.before(RANGES, 9) == [(2, 5), (8, 9)]
    assert batch_ranges.before([[2, 5], [8, 30]], 9) == [(2, 5), (8, 9)]
    assert batch_ranges.before(RANGES, 2) == []


def test_one_more_batch_joins_the_ranges_beside_it():
    assert batch_ranges.including((), 7) == ((7, 8),)
    assert batch_ranges.including(RANGES, 5) == ((2, 6), (8, 10))
    assert batch_ranges.including(RANGES, 0) == ((0, 1), (2, 5), (8, 10))


@pytest.mark.parametrize(
    ("ranges", "match"),
    [
        ((3,), "3"),
        (((3, 4, 5),), r"\(3, 4, 5\)"),
        (((3.0, 4),), r"3\.0"),
        (((-1, 4),), r"\(-1, 4\)"),
        (((4, 4),), r"\(4, 4\)"),
        (((4, 6), (5, 7)), r"\(5, 7\).*batch 6"),
        (((4, 21),), "21.*20"),
    ],
)
def test_ranges_that_say_nothing_are_refused(ranges, match):
    with pytest.raises(ValueError, match=f"skip_batches.*{match}"):
        batch_ranges.check(ranges, 20)
