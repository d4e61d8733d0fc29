import dataclasses
import re

import numpy as np
import pytest

from salt_jax.data.reading.batch_sizes import MOST_SIZES, Ramp
from salt_jax.data.reading.loader import Loader
from tests import runs
from tests.examples import partitioning

RAMP = Ramp(sizes=((0, 4), (3, 8), (5, 16)))
SIZES = [4, 4, 4, 8, 8, 16, 16, 16]


def test_rows_are_the_sum_of_the_sizes_before():
    assert [RAMP.size(i) for i in range(8)] == SIZES
    for begin in range(8):
        for end in range(begin, 9):
            assert RAMP.rows(begin, end) == sum(SIZES[begin:end])
            assert RAMP.distinct(begin, end) == sorted(set(SIZES[begin:end]))
    assert RAMP.rows(0, 1_000_000) == 28 + 16 * 999_995


def test_sizes_may_shrink_and_pairs_of_one_size_are_one():
    ramp = Ramp(sizes=((0, 8), (2, 8), (4, 4)))
    assert ramp.sizes == ((0, 8), (4, 4))
    assert ramp.rows(3, 6) == 16


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((), "empty"),
        (((1, 4),), r"\(1, 4\).*batch 0"),
        (((0, 4), (0, 8)), r"\(0, 8\) out of order"),
        (((0, 4), (5, 8), (3, 16)), r"\(3, 16\) out of order"),
        (((0, 0),), "positive, got 0"),
        (((0, 4.0),), r"\(0, 4.0\).*integers"),
        ((4, 8), "4, which is not"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Ramp(sizes=sizes)


@dataclasses.dataclass(frozen=True)
class Doubling:
    """Batch sizes of a user."""

    first: int
    every: int

    def changes(self, total_steps):
        steps = range(0, total_steps, self.every)
        return [(step, self.first << i) for i, step in enumerate(steps)]


def test_experiments_with_the_same_sizes_are_the_same():
    constant, ramp = Ramp(sizes=((0, 8), (3, 8))), Ramp(sizes=((0, 4), (3, 8), (6, 16)))
    assert runs.experiment("x", batch_size=constant) == runs.experiment("x")
    found = runs.experiment("x", batch_size=Doubling(4, every=3))
    assert found == runs.experiment("x", batch_size=ramp)
    assert found.batch_size == ramp
    longer = Ramp(sizes=(*ramp.sizes, (runs.TOTAL_STEPS, 5)))
    assert runs.experiment("x", batch_size=longer) == found
    never = Ramp(sizes=((0, 8), (runs.TOTAL_STEPS, 5)))
    assert runs.experiment("x", batch_size=never) == runs.experiment("x")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch_size": 8.0}, "batch_size must be an integer.*8.0: write 8"),
        ({"batch_size": "8"}, "batch_size must be an integer.*'8'"),
        (
            {"batch_size": Ramp(sizes=((0, 4), (1, 6))), "num_microbatches": 4},
            "num_microbatches=3 does not divide batch_size=4",
        ),
    ],
)
def test_sizes_that_an_experiment_cannot_have_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        runs.experiment("x", **changes)


def test_there_are_no_more_sizes_than_programs_worth_compiling():
    many = Ramp(sizes=tuple((i, i + 1) for i in range(MOST_SIZES + 1)))
    stages = (dataclasses.replace(runs.experiment("x").stages[1], end_step=20),)
    with pytest.raises(ValueError, match="9 sizes, from 1 to 9.*8 at most"):
        runs.experiment("x", batch_size=many, stages=stages)


def test_smaller_batches_have_fewer_microbatches_of_no_more_rows():
    experiment = runs.experiment("x", batch_size=RAMP, num_microbatches=4)
    assert [experiment.microbatches(rows) for rows in (4, 8, 16)] == [1, 2, 4]
    assert [experiment.divides(4, shards) for shards in (4, 8)] == [True, False]


def test_a_stage_has_the_sizes_of_all_steps_that_it_may_have():
    experiment = runs.experiment("x", batch_size=RAMP)
    assert experiment.sizes_of("distill") == [4, 8]
    assert experiment.sizes_of("standard") == [8, 16]
    assert experiment.sizes_of("standard", from_step=5) == [16]
    # Its first stage can be left from the first validation on.
    early = runs.adaptive("x", batch_size=RAMP)
    assert early.sizes_of("standard") == [4, 8, 16]


def test_batches_of_a_loader_hold_the_rows_in_order(prepared_text):
    loader = Loader(
        prepared_text,
        batch_size=RAMP,
        seq_len=16,
        seed=3,
        partitioning=partitioning(8, model=2),
        first_row=-4,
    )
    numbers = [loader.row_numbers(i) for i in range(8)]
    np.testing.assert_array_equal(
        np.concatenate(numbers), np.arange(-4, sum(SIZES) - 4)
    )
    batches = [loader.device_batch(i) for i in (2, 5)]
    assert [len(batch.tokens_BL) for batch in batches] == [4, 16]
    found = np.asarray(batches[1].tokens_BL)
    np.testing.assert_array_equal(found, loader.rows.read(numbers[5]).tokens_BL)
    message = re.escape("batch_size=4 is not a positive multiple of 8")
    with pytest.raises(ValueError, match=message):
        Loader(
            prepared_text,
            batch_size=RAMP,
            seq_len=16,
            seed=3,
            partitioning=partitioning(8),
        )
