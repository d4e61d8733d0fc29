import numpy as np
import pytest

from salt_jax.data.reading.answer_rows import AnswerRows, rows_of_lengths
from salt_jax.data.reading.objectives import Example
from salt_jax.data.vocabulary import Vocabulary

VOCABULARY = Vocabulary.open("embedded:tokenizer/spm_4k.model")
SEQ_LEN = 32


def made_examples(count=101, seed=0):
    """Examples whose tokens are the number of the example, so that they are known."""
    rng = np.random.default_rng(seed)
    lengths = zip(rng.integers(1, 12, count), rng.integers(1, 9, count), strict=True)
    return [
        Example(np.full(n, 100 + i, np.int32), np.full(m, 100 + i, np.int32))
        for i, (n, m) in enumerate(lengths)
    ]


def rows_of(examples, seed=0):
    return AnswerRows(examples, seq_len=SEQ_LEN, seed=seed, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def rows():
    return rows_of(made_examples())


def epoch(rows, number):
    count = rows.rows_per_epoch
    return np.arange(count) + number * count


@pytest.mark.parametrize("number", [0, 1, 5])
def test_an_epoch_has_every_example_once_and_whole(number, rows):
    batch = rows.read(epoch(rows, number))
    found = {}
    for row, segments in enumerate(batch.segments_BL):
        for segment in range(1, segments.max() + 1):
            at = segments == segment
            (token,) = set(batch.targets_BL[row, at].tolist())
            assert token not in found
            found[token] = (at.sum(), batch.weights_BL[row, at].sum())
    wanted = {
        100 + i: (len(x.inputs) + len(x.targets), len(x.targets))
        for i, x in enumerate(made_examples())
    }
    assert found == wanted


def test_each_epoch_has_an_order_and_neighbors_of_its_own(rows):
    first, second = (rows.ids(epoch(rows, number)) for number in (0, 1))
    assert [x.tolist() for x in first] != [x.tolist() for x in second]
    together = [{frozenset(x.tolist()) for x in ids} for ids in (first, second)]
    assert together[0] != together[1]


def test_another_seed_is_another_order(rows):
    other = rows_of(made_examples(), seed=1)
    assert [x.tolist() for x in rows.ids(epoch(rows, 0))] != [
        x.tolist() for x in other.ids(epoch(other, 0))
    ]


def test_a_row_is_known_from_its_number_alone(rows):
    numbers = np.array([977, 3, 40])
    alone = [rows_of(made_examples()).read(numbers[[i]]) for i in range(3)]
    together = rows.read(numbers)
    for name in ("tokens_BL", "targets_BL", "weights_BL", "segments_BL"):
        apart = np.concatenate([getattr(batch, name) for batch in alone])
        np.testing.assert_array_equal(getattr(together, name), apart)


def test_an_answer_is_learnt_and_its_question_only_read():
    example = Example(np.array([7, 8, 9], np.int32), np.array([5, 1], np.int32))
    batch = rows_of([example]).read(np.array([0]))
    begin, pad = VOCABULARY.begin_id, VOCABULARY.pad_id
    np.testing.assert_array_equal(batch.tokens_BL[0, :6], [begin, 7, 8, 9, 5, 0])
    np.testing.assert_array_equal(batch.targets_BL[0, :6], [7, 8, 9, 5, 1, pad])
    np.testing.assert_array_equal(batch.weights_BL[0, :6], [0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(batch.segments_BL[0, :6], [1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(batch.positions_BL[0, :5], [0, 1, 2, 3, 4])


def test_ids_name_the_examples_of_a_row_in_the_order_of_its_segments(rows):
    numbers = np.arange(5) + 30
    batch = rows.read(numbers)
    for row, ids in enumerate(rows.ids(numbers)):
        for segment, number in enumerate(ids.tolist(), start=1):
            tokens = batch.targets_BL[row, batch.segments_BL[row] == segment]
            assert set(tokens.tolist()) == {100 + number}


@pytest.mark.parametrize("seq_len", [1, 7, 64])
def test_packing_overfills_no_row_and_wastes_little(seq_len):
    rng = np.random.default_rng(seq_len)
    lengths = np.sort(rng.integers(1, seq_len + 1, 2000))[::-1]
    found = rows_of_lengths(lengths, seq_len)
    room = np.bincount(found, weights=lengths)
    assert room.max() <= seq_len and room.min() > 0
    # Two rows that fit together would have been one.
    assert (np.sort(room)[:2].sum() > seq_len) or len(room) == 1
    assert len(room) <= lengths.sum() / seq_len * 1.05 + 1


def test_the_fingerprint_is_of_what_is_read_and_not_of_its_order(rows):
    examples = made_examples()
    assert rows_of(examples, seed=9).fingerprint() == rows.fingerprint()
    last = examples[-1]
    examples[-1] = Example(last.inputs, last.targets + 1)
    assert rows_of(examples).fingerprint() != rows.fingerprint()
    # One token moved from the question to the answer is another example.
    examples[-1] = Example(last.inputs[:-1], np.append(last.inputs[-1:], last.targets))
    assert rows_of(examples).fingerprint() != rows.fingerprint()
