import numpy as np
import pytest

from salt_jax.data.reading.objectives import Example
from salt_jax.data.reading.packing import packed

PAD = 99
NOTHING = np.zeros(0, np.int32)


def example(inputs, targets):
    return Example(np.array(inputs, np.int32), np.array(targets, np.int32))


def pack(examples, rows, begin_ids, **changes):
    arguments = {"shape": (2, 8), "pad_id": PAD, "has_prefix": True} | changes
    rows, begin_ids = np.array(rows, np.int64), np.array(begin_ids, np.int64)
    return packed(examples, rows, begin_ids, **arguments)


@pytest.fixture
def batch():
    examples = [
        example([11, 12], [13]),
        example([], [21, 22]),
        example([31], [32, 33, 34]),
    ]
    return pack(examples, [0, 0, 1], [0, 5, 0])


def test_each_position_of_a_packed_row_is_as_described(batch):
    expected = {
        #             0  11  12 | 5  21 | padding
        "tokens_BL": [0, 11, 12, 5, 21, 0, 0, 0],
        "targets_BL": [11, 12, 13, 21, 22, PAD, PAD, PAD],
        "weights_BL": [0, 0, 1, 1, 1, 0, 0, 0],
        "segments_BL": [1, 1, 1, 2, 2, 0, 0, 0],
        "positions_BL": [0, 1, 2, 0, 1, 0, 0, 0],
        "prefix_BL": [1, 1, 1, 0, 0, 0, 0, 0],
    }
    for name, row in expected.items():
        assert getattr(batch, name)[0].astype(int).tolist() == row, name


def test_what_is_seen_both_ways_is_inputs_and_never_a_target(batch):
    assert batch.tokens_BL[1].tolist() == [0, 31, 32, 33, 0, 0, 0, 0]
    assert batch.weights_BL[1].tolist() == [0, 1, 1, 1, 0, 0, 0, 0]
    assert batch.prefix_BL[1].tolist() == [True, True, *[False] * 6]


def test_arrays_have_the_types_of_a_batch(batch):
    kinds = {name: getattr(batch, name).dtype for name in batch.__dataclass_fields__}
    assert kinds.pop("weights_BL") == np.float32
    assert kinds.pop("prefix_BL") == np.bool_
    assert set(kinds.values()) == {np.dtype(np.int32)}


def test_a_row_may_be_full_and_a_row_may_be_empty():
    batch = pack([example([1, 2, 3], [4, 5, 6, 7, 8])], [1], [0])
    assert batch.segments_BL.tolist() == [[0] * 8, [1] * 8]
    assert batch.weights_BL[0].sum() == 0
    batch = pack([], [], [])
    assert batch.targets_BL.tolist() == [[PAD] * 8] * 2


def test_an_example_of_nothing_takes_no_room():
    whole = example([1], [2])
    batch = pack([whole, example([], []), whole, example([], [])], [0] * 4, [0] * 4)
    assert batch.targets_BL[0].tolist() == [1, 2, 1, 2, PAD, PAD, PAD, PAD]
    assert batch.tokens_BL[0].tolist() == [0, 1, 0, 1, 0, 0, 0, 0]


def test_where_nothing_is_seen_both_ways_the_batch_does_not_say_so():
    assert pack([example([], [1])], [0], [0], has_prefix=False).prefix_BL is None
