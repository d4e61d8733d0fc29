import dataclasses
import time

import jax
import numpy as np
import pytest

from salt_jax.data.loader import Loader, open_batches
from salt_jax.data.pile import Pile
from salt_jax.data.rows import causal_batch
from salt_jax.partitioning import AxisRules, MeshShape, Partitioning
from tests.examples import batch_ids

BATCH_SIZE = 8
SEQ_LEN = 16
FIELDS = ("tokens_BL", "targets_BL", "weights_BL", "segments_BL", "positions_BL")


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A selection made by hand."""

    ids: tuple[int, ...]

    def select(self, dataset):
        return np.array(self.ids)


@pytest.fixture(scope="module")
def partitioning():
    return Partitioning(mesh=MeshShape(data=4, model=2).build())


@pytest.fixture
def make_loader(pile, partitioning):
    def make(**changes):
        arguments = {
            "data": pile,
            "batch_size": BATCH_SIZE,
            "seq_len": SEQ_LEN,
            "seed": 3,
            "partitioning": partitioning,
        }
        return Loader(**(arguments | changes))

    return make


def assert_same(one, other):
    for name in FIELDS:
        found, expected = getattr(one, name), getattr(other, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, err_msg=name)


def ids_of_batches(loader, count):
    return np.concatenate([batch_ids(loader, index) for index in range(count)])


def test_every_token_is_a_target_once(train):
    sequences = train.read(np.arange(len(train)))
    batch = causal_batch(sequences)
    assert batch.weights_BL.sum() == train.manifest.num_tokens
    np.testing.assert_array_equal(batch.targets_BL, sequences.tokens)
    np.testing.assert_array_equal(batch.weights_BL > 0, sequences.segments > 0)


def test_a_model_reads_the_token_before_and_none_of_another_document(train):
    batch = causal_batch(train.read(np.arange(len(train))))
    for row in range(len(train)):
        for column in range(SEQ_LEN):
            segment = batch.segments_BL[row, column]
            is_first = column == 0 or batch.segments_BL[row, column - 1] != segment
            before = batch.targets_BL[row, column - 1]
            expected = 0 if is_first or segment == 0 else before
            assert batch.tokens_BL[row, column] == expected


def test_a_batch_is_the_same_after_a_restart(make_loader):
    for index in (0, 5, 10_000):
        again = make_loader().host_batch(index)
        assert_same(make_loader().host_batch(index), again)


@pytest.mark.parametrize("num_hosts", [1, 2, 4, 8])
def test_a_batch_is_the_same_for_any_number_of_hosts(num_hosts, make_loader):
    rows = BATCH_SIZE // num_hosts
    parts = [
        make_loader().host_batch(7, slice(host * rows, (host + 1) * rows))
        for host in range(num_hosts)
    ]
    joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    assert_same(joined, make_loader().host_batch(7))


@pytest.mark.parametrize(
    "mesh", [MeshShape(), MeshShape(data=1, model=8), MeshShape(replica=2, model=2)]
)
@pytest.mark.parametrize("rules", [AxisRules(), AxisRules(length="model")])
def test_a_batch_on_any_mesh_is_the_batch_on_the_host(mesh, rules, make_loader):
    loader = make_loader(partitioning=Partitioning(mesh=mesh.build(), rules=rules))
    batch = loader.device_batch(4)
    assert_same(batch, loader.host_batch(4))
    assert batch.tokens_BL.sharding.spec == Partitioning(
        mesh=mesh.build(), rules=rules
    ).spec("batch", "length")


def test_rows_that_several_devices_hold_are_read_once(make_loader, monkeypatch):
    loader = make_loader()
    read = loader.rows.dataset.read
    rows = []
    monkeypatch.setattr(
        loader.rows.dataset, "read", lambda ids: rows.append(ids) or read(ids)
    )
    loader.device_batch(0)
    np.testing.assert_array_equal(
        np.sort(np.concatenate(rows)), np.sort(batch_ids(loader, 0))
    )


def test_an_epoch_reads_every_sequence_once(make_loader):
    loader = make_loader()
    count = len(loader.rows.dataset)
    assert count % BATCH_SIZE  # So that batches straddle epochs.
    ids = ids_of_batches(loader, 3 * count // BATCH_SIZE + 1)
    for epoch in range(3):
        of_epoch = np.sort(ids[epoch * count : (epoch + 1) * count])
        np.testing.assert_array_equal(of_epoch, np.arange(count))


def test_epochs_have_orders_of_their_own(make_loader):
    loader = make_loader()
    count = len(loader.rows.dataset)
    ids = ids_of_batches(loader, 2 * count // BATCH_SIZE + 1)
    assert not np.array_equal(ids[:count], ids[count : 2 * count])


def test_another_seed_has_another_order(make_loader):
    one, other = (ids_of_batches(make_loader(seed=seed), 5) for seed in (3, 4))
    assert not np.array_equal(one, other)


def test_rows_hold_the_sequences_of_their_ids(make_loader):
    loader = make_loader()
    expected = loader.rows.dataset.read(batch_ids(loader, 11)).tokens
    np.testing.assert_array_equal(loader.host_batch(11).targets_BL, expected)


def test_a_batch_may_be_larger_than_an_epoch(make_loader, pile):
    few = dataclasses.replace(pile, selection=Chosen((5, 9, 60)))
    loader = make_loader(data=few)
    ids = batch_ids(loader, 0)
    counts = np.unique(ids, return_counts=True)
    assert counts[0].tolist() == [5, 9, 60]
    assert sorted(counts[1].tolist()) == [2, 3, 3]


def test_with_a_selection_only_its_sequences_are_read_each_once_an_epoch(
    make_loader, pile
):
    chosen = tuple(range(3, 99, 4))
    loader = make_loader(data=dataclasses.replace(pile, selection=Chosen(chosen)))
    assert loader.rows.rows_per_epoch == len(chosen) == 3 * BATCH_SIZE
    for epoch in range(2):
        ids = [batch_ids(loader, 3 * epoch + index) for index in range(3)]
        np.testing.assert_array_equal(np.sort(np.concatenate(ids)), chosen)


@pytest.mark.parametrize("batch_size", [0, 6, 9])
def test_a_batch_that_does_not_divide_over_the_mesh_is_refused(batch_size, make_loader):
    with pytest.raises(
        ValueError, match=rf"batch_size={batch_size} does not divide over the 4 parts"
    ):
        make_loader(batch_size=batch_size)


def test_data_that_is_missing_is_refused(make_loader, tmp_path, pile):
    missing = Pile(path=str(tmp_path), vocabulary=pile.vocabulary)
    with pytest.raises(FileNotFoundError, match=r"No prepared data at .*train"):
        make_loader(data=missing)


@pytest.mark.parametrize("begin_index", [0, 3])
@pytest.mark.parametrize("read_ahead", [1, 4])
def test_batches_come_in_order_from_where_they_begin(
    begin_index, read_ahead, make_loader
):
    loader = make_loader()
    with open_batches(loader, begin_index, read_ahead) as batches:
        for index in range(begin_index, begin_index + 9):
            assert_same(next(batches), loader.host_batch(index))


def test_no_more_is_made_ahead_than_asked(make_loader, monkeypatch):
    loader = make_loader()
    made = []
    monkeypatch.setattr(loader, "device_batch", lambda index: made.append(index))
    with open_batches(loader, 0, read_ahead=3) as batches:
        next(batches)
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert made == [0, 1, 2, 3]


def test_waiting_for_a_batch_is_counted_as_stall(make_loader, monkeypatch):
    loader = make_loader()
    monkeypatch.setattr(loader, "device_batch", lambda index: time.sleep(0.1))
    with open_batches(loader, 0, read_ahead=1) as batches:
        next(batches)
        next(batches)
        slow = batches.stall_seconds
        time.sleep(0.5)
        next(batches)
        # What was made ahead is not waited for.
        assert batches.stall_seconds - slow < 0.1 < slow


def test_what_keeps_a_batch_from_being_made_is_raised_where_it_is_missed(
    make_loader, monkeypatch
):
    loader = make_loader()
    read = loader.host_batch

    def read_or_fail(index, rows):
        if index == 2:
            raise ValueError("sequences-00001 is damaged")
        return read(index, rows)

    monkeypatch.setattr(loader, "host_batch", read_or_fail)
    with open_batches(loader, 0) as batches:
        next(batches), next(batches)
        with pytest.raises(ValueError, match="sequences-00001 is damaged"):
            next(batches)
        with pytest.raises(ValueError, match="closed"):
            next(batches)


@pytest.mark.parametrize("num_read", [0, 2])
def test_closing_ends_the_thread(num_read, make_loader):
    batches = open_batches(make_loader(), 0, read_ahead=2)
    for _ in range(num_read):
        next(batches)
    begin = time.monotonic()
    batches.close()
    assert time.monotonic() - begin < 2.0
    assert not batches._thread.is_alive()
    batches.close()


@pytest.mark.parametrize("arguments", [(-1, 4), (0, 0)])
def test_batches_before_the_first_or_not_ahead_are_refused(arguments, make_loader):
    with pytest.raises(ValueError, match="made 1 or more ahead"):
        open_batches(make_loader(), *arguments)
