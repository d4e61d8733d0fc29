import numpy as np
import pytest

from salt_jax.data.scoring.minhash import (
    NUM_BANDS,
    ORDERS_PER_BAND,
    SHINGLE,
    bands,
    sketches,
)

N, L, VOCAB = 500, 640, 4096
DRAW = np.random.default_rng(0)
TOKENS = DRAW.integers(0, VOCAB, (N, L)).astype(np.int32)
WHOLE = np.ones((N, L), bool)
SKETCHES = sketches(TOKENS, WHOLE)


def shared(first, second):
    """Whether each pair of sketches shares each band, [NUM_BANDS, N]."""
    return np.stack([x == y for x, y in zip(bands(first), bands(second), strict=True)])


def with_changed(count):
    """The sequences with `count` of the tokens of each replaced by new ones."""
    changed = TOKENS.copy()
    for row in changed:
        row[DRAW.choice(L, count, replace=False)] = DRAW.integers(
            VOCAB, 2 * VOCAB, count
        )
    return changed


def similarity(first, second):
    """The Jaccard similarity of the shingles of two rows."""
    one, other = (
        {row[i : i + SHINGLE].tobytes() for i in range(len(row) - SHINGLE + 1)}
        for row in (first, second)
    )
    return len(one & other) / len(one | other)


def test_equal_sequences_have_equal_sketches_and_a_sketch_is_eight_bytes():
    np.testing.assert_array_equal(sketches(TOKENS.copy(), WHOLE), SKETCHES)
    assert (SKETCHES.dtype, SKETCHES.shape) == (np.dtype(np.uint64), (N,))


def test_a_sketch_does_not_depend_on_the_rows_beside_it():
    np.testing.assert_array_equal(
        sketches(TOKENS[37:90], WHOLE[37:90]), SKETCHES[37:90]
    )


@pytest.mark.parametrize("share", [0.01, 0.03])
def test_a_band_is_shared_as_often_as_similarity_to_the_power_of_its_orders(share):
    changed = with_changed(round(share * L))
    pairs = zip(TOKENS, changed, strict=True)
    expected = np.mean([similarity(*pair) ** ORDERS_PER_BAND for pair in pairs])
    found = shared(SKETCHES, sketches(changed, WHOLE))
    # Five standard deviations of a share among so many.
    margin = 5 * np.sqrt(expected * (1 - expected) / N)
    np.testing.assert_allclose(found.mean(axis=1), expected, atol=margin)
    # The bands are of other orders: that one is shared says nothing of the other.
    either = 1 - (1 - expected) ** NUM_BANDS
    assert found.any(axis=0).mean() == pytest.approx(either, abs=margin)


def test_a_sequence_with_a_hundredth_of_its_tokens_changed_mostly_shares_a_band():
    found = shared(SKETCHES, sketches(with_changed(round(0.01 * L)), WHOLE))
    assert found.any(axis=0).mean() > 0.8


def test_unrelated_sequences_share_no_band():
    for band in bands(SKETCHES):
        assert len(np.unique(band)) == N


def test_a_sequence_shifted_by_a_few_tokens_mostly_shares_a_band():
    shifted = np.roll(TOKENS, 3, axis=1)
    shifted[:, :3] = DRAW.integers(0, VOCAB, (N, 3))
    assert shared(SKETCHES, sketches(shifted, WHOLE)).any(axis=0).mean() > 0.95


def test_what_padding_holds_and_how_much_there_is_changes_nothing():
    lengths = np.arange(N)[:, None]  # Rows of fewer tokens than a shingle, too.
    is_token = np.arange(L) < lengths
    expected = sketches(TOKENS, is_token)
    noise = np.where(is_token, TOKENS, DRAW.integers(0, VOCAB, (N, L)))
    np.testing.assert_array_equal(sketches(noise, is_token), expected)
    wider = [np.pad(x, ((0, 0), (0, 9))) for x in (noise, is_token)]
    np.testing.assert_array_equal(sketches(*wider), expected)
    cut = [x[:, :N] for x in (noise, is_token)]
    np.testing.assert_array_equal(sketches(*cut), expected)


@pytest.mark.parametrize("length", [1, 3, SHINGLE - 1])
def test_rows_shorter_than_a_shingle_are_told_apart(length):
    rows = np.unique(TOKENS[:, :length], axis=0)
    found = sketches(rows, np.ones(rows.shape, bool))
    assert len(np.unique(found)) == len(rows)
    zero = np.zeros((1, length + 1), np.int32)
    longer = sketches(zero, np.ones(zero.shape, bool))
    assert longer != sketches(zero, np.arange(length + 1)[None] < length)


def test_a_sketch_is_of_the_set_of_shingles_whatever_their_order_and_number():
    halves = TOKENS[:, : L // 2], TOKENS[:, L // 2 :]
    swapped = np.concatenate(halves[::-1], axis=1)
    assert shared(SKETCHES, sketches(swapped, WHOLE)).any(axis=0).mean() > 0.95
    period = np.tile(TOKENS[:, :7], (1, 20))
    twice = np.tile(period, (1, 2))
    whole = [sketches(x, np.ones(x.shape, bool)) for x in (period, twice)]
    np.testing.assert_array_equal(*whole)


def test_the_last_tokens_count():
    only_last = TOKENS.copy()
    only_last[:, :-SHINGLE] = 7
    other = only_last.copy()
    other[:, -1] += 1
    found = [sketches(x, WHOLE) for x in (only_last, other)]
    assert (found[0] != found[1]).mean() > 0.5


def test_sketches_of_two_versions_can_be_compared():
    # Recorded: sketches are on disk, and are compared with those of later runs.
    tokens = np.arange(40, dtype=np.int32).reshape(2, 20)
    found = sketches(tokens, np.ones(tokens.shape, bool))
    assert [f"{x:016x}" for x in found] == ["b3443b72be00265c", "74548e58b8e66017"]


def test_no_sequences_have_no_sketches():
    assert sketches(TOKENS[:0], WHOLE[:0]).shape == (0,)
