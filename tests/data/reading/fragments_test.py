import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salt_jax.data.reading.fragments import fragments_of
from salt_jax.data.reading.rows import SequenceStream
from tests.data.conftest import SEQ_LEN


@pytest.fixture(scope="module")
def stream(train):
    return SequenceStream(train, None, seed=3)


def place_of(stream, fragments):
    """Finds the places of the stream at which the fragments' sequences are."""
    (epoch,) = np.unique(fragments.epochs)
    places = np.arange(len(stream)) + epoch * len(stream)
    place_of_id = dict(zip(stream.ids_at(places).tolist(), places, strict=True))
    return np.array([place_of_id[i] for i in fragments.ids])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pieces_are_the_text_between_cuts_each_of_one_document(stream, data):
    """Ranges of any length, read in one call, against reading token by token."""
    num_tokens = len(stream) * SEQ_LEN
    begin = data.draw(st.integers(0, num_tokens - 1))
    end = data.draw(st.integers(begin + 1, min(begin + 70, num_tokens)))
    begin, end = begin + 2 * num_tokens, end + 2 * num_tokens
    fragments = fragments_of(stream, np.array([begin]), np.array([end]))
    expected = []
    for token in range(begin, end):
        place, column = divmod(token, SEQ_LEN)
        sequence_id = stream.ids_at(np.array([place]))
        sequence = stream.dataset.read(sequence_id)
        segment = sequence.segments[0, column]
        if segment:
            key = (place, segment)
            if not expected or expected[-1][0] != key:
                expected.append((key, int(sequence_id[0]), column, []))
            expected[-1][3].append(sequence.tokens[0, column])
    assert [text.tolist() for text in fragments.texts()] == [x[3] for x in expected]
    assert fragments.ids.tolist() == [x[1] for x in expected]
    assert fragments.offsets.tolist() == [x[2] for x in expected]
    assert np.all(fragments.epochs == 2) and np.all(fragments.rows == 0)


@pytest.mark.parametrize("size", [1, 7, SEQ_LEN, 23, 40])
def test_ranges_side_by_side_give_every_token_of_an_epoch_once(stream, train, size):
    begins = np.arange(0, len(stream) * SEQ_LEN, size)
    ends = np.minimum(begins + size, len(stream) * SEQ_LEN)
    fragments = fragments_of(stream, begins, ends)
    sequences = train.read(np.arange(len(train)))
    again, texts = np.zeros_like(sequences.tokens), fragments.texts()
    seen = np.zeros(again.shape, int)
    for text, row, offset in zip(texts, fragments.ids, fragments.offsets, strict=True):
        again[row, offset : offset + len(text)] = text
        seen[row, offset : offset + len(text)] += 1
    np.testing.assert_array_equal(seen, sequences.segments > 0)
    np.testing.assert_array_equal(again, np.where(seen, sequences.tokens, 0))


def test_the_last_sequence_is_padded_and_gives_its_tokens_only(stream, train):
    last = len(train) - 1
    num_tokens = int(train.manifest.num_tokens - last * SEQ_LEN)
    assert 0 < num_tokens < SEQ_LEN
    (place,) = np.flatnonzero(stream.ids_at(np.arange(len(train))) == last)
    begin = np.array([place * SEQ_LEN])
    assert fragments_of(stream, begin, begin + SEQ_LEN).lengths.sum() == num_tokens
    nothing = fragments_of(stream, begin + num_tokens, begin + SEQ_LEN)
    assert len(nothing.lengths) == len(nothing.texts()) == 0


def test_a_sequence_that_rows_share_is_read_once(stream, train, monkeypatch):
    read, asked = train.read, []
    monkeypatch.setattr(train, "read", lambda ids: asked.append(ids) or read(ids))
    begins = np.array([5, 0, 3 * SEQ_LEN, SEQ_LEN + 2])
    fragments_of(stream, begins, begins + SEQ_LEN)
    assert len(asked) == 1
    assert sorted(asked[0]) == sorted(stream.ids_at(np.array([0, 1, 2, 3])))


def test_pieces_cannot_be_changed_by_who_gets_them(stream):
    fragments = fragments_of(stream, np.array([0]), np.array([SEQ_LEN]))
    with pytest.raises(ValueError, match="read-only"):
        fragments.texts()[0][0] = 7


def test_a_selection_gives_its_sequences_only(train):
    chosen = np.array([4, 8, 9])
    stream = SequenceStream(train, chosen, seed=0)
    fragments = fragments_of(stream, np.array([0]), np.array([3 * SEQ_LEN]))
    assert sorted(set(fragments.ids.tolist())) == chosen.tolist()
    assert sorted(set(place_of(stream, fragments).tolist())) == [0, 1, 2]


def test_pieces_know_how_much_of_their_row_is_before_them(stream):
    begins = np.array([0, 3, 0, 5 * SEQ_LEN - 4])
    fragments = fragments_of(stream, begins, begins + 2 * SEQ_LEN)
    expected = []
    for row in range(4):
        lengths = fragments.lengths[fragments.rows == row].tolist()
        expected += [sum(lengths[:index]) for index in range(len(lengths))]
    assert fragments.begins_in_rows().tolist() == expected
