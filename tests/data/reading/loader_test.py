import dataclasses
import pathlib
import threading
import time

import jax
import numpy as np
import pytest

from salt_jax.data.prepared import readers
from salt_jax.data.prepared.dataset import PreparedDataset
from salt_jax.data.preparing.prepare import prepare
from salt_jax.data.reading.loader import Batches, Loader, describe_epochs, open_batches
from salt_jax.data.reading.prepared_text import PreparedText
from salt_jax.data.reading.rows import causal_batch
from salt_jax.mesh.partitioning import AxisRules, MeshShape, Partitioning
from tests.examples import batch_ids
from tests.stand_in import write_stand_in

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
def make_loader(prepared_text, partitioning):
    def make(**changes):
        arguments = {
            "data": prepared_text,
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


def test_a_batch_may_be_larger_than_an_epoch(make_loader, prepared_text):
    few = dataclasses.replace(prepared_text, selection=Chosen((5, 9, 60)))
    loader = make_loader(data=few)
    ids = batch_ids(loader, 0)
    counts = np.unique(ids, return_counts=True)
    assert counts[0].tolist() == [5, 9, 60]
    assert sorted(counts[1].tolist()) == [2, 3, 3]


def test_with_a_selection_only_its_sequences_are_read_each_once_an_epoch(
    make_loader, prepared_text
):
    chosen = tuple(range(3, 99, 4))
    loader = make_loader(
        data=dataclasses.replace(prepared_text, selection=Chosen(chosen))
    )
    assert loader.rows.rows_per_epoch == len(chosen) == 3 * BATCH_SIZE
    for epoch in range(2):
        ids = [batch_ids(loader, 3 * epoch + index) for index in range(3)]
        np.testing.assert_array_equal(np.sort(np.concatenate(ids)), chosen)


@pytest.mark.parametrize("batch_size", [0, 6, 9])
def test_a_batch_that_does_not_divide_over_the_mesh_is_refused(batch_size, make_loader):
    with pytest.raises(ValueError, match=rf"batch_size={batch_size} .* 4, the shards"):
        make_loader(batch_size=batch_size)


def test_data_that_is_missing_is_refused(make_loader, tmp_path, prepared_text):
    missing = PreparedText(path=str(tmp_path), vocabulary=prepared_text.vocabulary)
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
        assert sorted(made) == [0, 1, 2, 3]


def test_waiting_for_a_batch_is_counted_as_stall(make_loader, monkeypatch):
    loader, now = make_loader(), 100.0
    asked, made = threading.Semaphore(0), threading.Semaphore(0)

    def read_clock():
        asked.release()
        return now

    def make(index):
        nonlocal now
        if index == 0:
            assert asked.acquire(timeout=20)
        now += 2.0
        made.release()

    monkeypatch.setattr(loader, "device_batch", make)
    with Batches(loader, 0, read_ahead=1, clock=read_clock) as batches:
        next(batches)
        assert batches.stall_seconds == 2.0
        assert made.acquire(timeout=20) and made.acquire(timeout=20)
        next(batches)
        # What was made ahead is not waited for.
        assert batches.stall_seconds == 2.0


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
def test_closing_ends_the_threads(num_read, make_loader):
    batches = open_batches(make_loader(), 0, read_ahead=2)
    for _ in range(num_read):
        next(batches)
    batches.close()
    assert not [x for x in threading.enumerate() if x.name.startswith("read-ahead")]
    batches.close()


def test_batches_made_ahead_are_made_at_the_same_time(make_loader, monkeypatch):
    loader = make_loader()
    expected = [loader.host_batch(index) for index in range(3)]
    together = threading.Barrier(3, timeout=20)
    make = loader.device_batch

    def wait_and_make(index):
        if index < 3:
            together.wait()
        return make(index)

    monkeypatch.setattr(loader, "device_batch", wait_and_make)
    with open_batches(loader, 0, read_ahead=3) as batches:
        for one in expected:
            assert_same(next(batches), one)


def test_batches_that_are_made_out_of_order_are_delivered_in_order(
    make_loader, monkeypatch
):
    loader = make_loader()
    made = [threading.Event() for _ in range(8)]

    def make(index):
        # Even batches wait for those after them.
        if index % 2 == 0:
            assert made[index + 1].wait(20)
        made[index].set()
        return index

    monkeypatch.setattr(loader, "device_batch", make)
    with open_batches(loader, 0, read_ahead=2) as batches:
        assert [next(batches) for _ in range(6)] == list(range(6))


@pytest.mark.parametrize("kind", [ValueError, OSError])
def test_what_keeps_a_batch_from_being_made_names_the_batch_and_the_step(
    kind, make_loader, monkeypatch
):
    loader = make_loader()

    def fail(index):
        raise kind("sequences-00001 is missing: fetch it again.")

    monkeypatch.setattr(loader, "device_batch", fail)
    message = r"Batch 1234, for step 1235, cannot be made: sequences-00001 is missing"
    with (
        open_batches(loader, 1234) as batches,
        pytest.raises(kind, match=message),
    ):
        next(batches)


def test_a_mistake_of_ours_is_raised_as_it_is(make_loader, monkeypatch):
    loader = make_loader()
    error = KeyError("tokens")

    def fail(index):
        raise error

    monkeypatch.setattr(loader, "device_batch", fail)
    with open_batches(loader, 0) as batches, pytest.raises(KeyError) as raised:
        next(batches)
    assert raised.value is error


class WithoutPauses(PreparedText):
    """A prepared split whose shards are tried again at once."""

    def open(self, *, seq_len):
        retries = readers.Retries((0.0, 0.0))
        return PreparedDataset.open(f"{self.path}/{self.split}", retries=retries)


def test_a_shard_that_disappears_stops_the_run_with_its_name_and_the_step(
    own_preparation, make_loader
):
    prepare(own_preparation)
    data = WithoutPauses(
        path=own_preparation.output, vocabulary=own_preparation.vocabulary
    )
    loader = make_loader(data=data)
    next(pathlib.Path(data.path).glob("train/*-00003-of-*")).unlink()
    ids = [batch_ids(loader, index) for index in range(9)]
    hit = next(i for i, x in enumerate(ids) if ((x >= 90) & (x < 120)).any())
    with open_batches(loader, 0) as batches:
        for _ in range(hit):
            next(batches)
        message = rf"Batch {hit}, for step {hit + 1}, .*sequences-00003-of.* is missing"
        with pytest.raises(ValueError, match=message):
            next(batches)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A dataset of 200 M sequences, nearly all of them links to the same file."""
    folder = tmp_path_factory.mktemp("large")
    return write_stand_in(folder, num_shards=12_208)


def test_batch_1_000_000_of_200_million_sequences_costs_what_batch_0_costs(
    large, partitioning, monkeypatch
):
    opened = note_opened(monkeypatch)
    costs = []
    for index in (0, 1_000_000):
        opened.clear()
        loader = Loader(
            large, batch_size=64, seq_len=16, seed=1, partitioning=partitioning
        )
        before = bytes_read()
        batch = loader.host_batch(index)
        costs.append(bytes_read() - before)
        ids = batch_ids(loader, index)
        assert len(opened) == len(np.unique(ids // 16_384)) > 50
        # The stand-in says in each sequence where in its shard it is.
        np.testing.assert_array_equal(batch.targets_BL[:, 0], ids % 16_384)
        assert loader.rows.rows_per_epoch == 200_015_872
    assert costs[1] < 1.5 * costs[0] + 1e6


def note_opened(monkeypatch):
    """Returns a list to which the path of each shard is added that is opened."""
    opened = []
    module = readers.array_record_module
    real = module.ArrayRecordReader

    def open_and_note(path, *options):
        opened.append(path)
        return real(path, *options)

    monkeypatch.setattr(module, "ArrayRecordReader", open_and_note)
    return opened


def bytes_read():
    """How much this process has read from files so far; 0 where that is not known."""
    counters = pathlib.Path("/proc/self/io")
    if not counters.exists():
        return 0
    return int(dict(x.split(": ") for x in counters.read_text().splitlines())["rchar"])


@dataclasses.dataclass
class Counted:
    """Rows of which it is known how many there are, or not."""

    rows_per_epoch: int | None


@pytest.mark.parametrize(
    ("num_rows", "rows_per_epoch", "selected", "expected"),
    [
        (
            73_728,
            51_200,
            True,
            "reads 73,728 rows of 51,200 that were selected: 1.44 epochs, each in an "
            "order of its own",
        ),
        (
            640,
            1280,
            False,
            "reads 640 rows of 1,280 that there are: 50.00% of an epoch",
        ),
        (9, 9, False, "reads 9 rows of 9 that there are: 100.00% of an epoch"),
        (9, None, False, "reads 9 rows of a stream of unknown length"),
    ],
)
def test_it_is_said_how_often_a_stage_reads_its_text(
    num_rows, rows_per_epoch, selected, expected
):
    rows = Counted(rows_per_epoch)
    assert describe_epochs(num_rows, rows, selected=selected) == expected


@pytest.mark.parametrize("arguments", [(-1, 4), (0, 0)])
def test_batches_before_the_first_or_not_ahead_are_refused(arguments, make_loader):
    with pytest.raises(ValueError, match="read_ahead at least 1"):
        open_batches(make_loader(), *arguments)
