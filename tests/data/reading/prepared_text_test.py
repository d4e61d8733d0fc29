import dataclasses

import numpy as np
import pytest

from salt_jax.data.reading.prepared_text import selected_ids


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A selection made by hand."""

    ids: tuple

    def select(self, dataset):
        return np.array(self.ids)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ((5, 9, 9), "gives duplicated ids: 9 after 9"),
        ((5, 9, 7), "gives ids out of order: 7 after 9"),
        ((-1, 9), "gives the id -1, which .*train does not have: ids are 0 to"),
        ((9, 100_000), "gives the id 100000, which .*train does not have"),
        ((), "keeps no sequence of .*train"),
        ((0.5, 1.0), r"gives float64\[2\], not a list of ids"),
        (((1, 2), (3, 4)), r"gives int64\[2, 2\], not a list of ids"),
    ],
)
def test_a_selection_of_other_than_increasing_ids_is_refused_by_name(
    ids, message, prepared_text
):
    data = dataclasses.replace(prepared_text, selection=Chosen(ids))
    with pytest.raises(ValueError, match=f"The selection Chosen {message}"):
        data.open_rows(seq_len=16, seed=0)


def test_a_task_of_a_selection_refuses_the_same(train):
    with pytest.raises(ValueError, match="duplicated ids: 3 after 3"):
        selected_ids(Chosen((3, 3)), train)


def test_the_ids_of_a_selection_are_int64(train):
    class Narrow:
        def select(self, dataset):
            return np.array([1, 4], np.uint32)

    ids = selected_ids(Narrow(), train)
    assert ids.dtype == np.int64
    assert ids.tolist() == [1, 4]
